"""What trains but is no published method: parts that methods share, and the fit of rewards to
agents.
"""
