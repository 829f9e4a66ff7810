"""Multi-agent MuJoCo (Peng et al., 2021): one body whose joints are divided among agents."""
