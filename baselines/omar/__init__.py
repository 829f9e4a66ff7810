"""OMAR: offline multi-agent RL with actor rectification (Pan et al., ICML 2022).

Each agent has an actor that follows its critic's gradient and is drawn to the best action that a
search over the critic finds, since the gradient alone ends in local optima. continuous.py is the
paper's form; discrete.py is that of the CFCQL code base (Shao et al., NeurIPS 2023), whose
StarCraft results later papers repeat.
"""

from jaxoff.baselines.omar import continuous, discrete

FORMS = {"discrete": discrete, "continuous": continuous}
