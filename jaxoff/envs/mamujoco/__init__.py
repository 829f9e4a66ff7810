"""Multi-agent MuJoCo (Peng et al., 2021): one body, its joints shared out among agents."""
