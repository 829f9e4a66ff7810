"""SMAX: battles like SMAC's, without StarCraft."""

from jaxoff.envs.smax.env import make_smax, smax_spec
from jaxoff.envs.smax.units import FAMILIES, MAPS, X_MAPS

__all__ = ["FAMILIES", "MAPS", "X_MAPS", "make_smax", "smax_spec"]
