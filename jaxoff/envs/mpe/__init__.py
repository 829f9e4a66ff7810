"""Particle worlds: OMAR's spread, tag and world, and SIT's partially observable maps."""
