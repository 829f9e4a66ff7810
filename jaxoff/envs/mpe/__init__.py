"""Particle environments: OMAR's spread, tag and world, and SIT's partially observable maps."""
