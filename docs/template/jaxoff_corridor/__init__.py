"""Parts of somebody's own for jaxoff: an environment, a method and a sampler."""
