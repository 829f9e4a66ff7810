"""Checks of somebody else's environment or method against the contracts of `jaxoff/types.py`.

print(jaxoff.check_env(env))          # jaxoff check-env TASK
print(jaxoff.check_learner("mine"))   # jaxoff check-learner NAME
"""

from jaxoff.conformance.environment import check_env
from jaxoff.conformance.findings import Findings
from jaxoff.conformance.learner import check_learner

__all__ = ["Findings", "check_env", "check_learner"]
