"""MABCQ: batch-constrained values with a linear mixer, the baseline of Tian et al. (AAAI 2023, Eq.
12).

discrete.py keeps actions that the behaviour model finds likely; continuous.py has BCQ's VAE and
perturbation.
"""

from jaxoff.baselines.bcq import continuous, discrete

FORMS = {"discrete": discrete, "continuous": continuous}
