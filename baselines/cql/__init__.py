"""MA-CQL: conservative critics for every agent or for the team, the baseline of Pan et al. (OMAR,
ICML 2022).

For continuous actions only. Each agent has critics of its own in agents.py; team.py has one critic
for the whole team.
"""

from jaxoff.baselines.cql import continuous

FORMS = {"continuous": continuous}
