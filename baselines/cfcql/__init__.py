"""CFCQL: counterfactual conservative Q-learning (Shao et al., NeurIPS 2023).

Values are held low where one agent leaves the data's joint action while the others stay with it, so
the penalty grows with the number of agents, not with that of joint actions. discrete.py: QMIX
values; continuous.py: MATD3.
"""

from jaxoff.baselines.cfcql import continuous, discrete

FORMS = {"discrete": discrete, "continuous": continuous}
