"""CFCQL: counterfactual conservative Q-learning (Shao et al., NeurIPS 2023).

The penalty lowers the values of joint actions in which one agent deviates from the data's joint
action while the others keep to it, so it grows with the number of agents, not with the number of
joint actions. discrete.py: QMIX values; continuous.py: MATD3.
"""

from jaxoff.baselines.cfcql import continuous, discrete

FORMS = {"discrete": discrete, "continuous": continuous}
