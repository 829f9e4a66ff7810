"""Learners that are no published method by themselves: parts that methods share, and the fit of
agents' own rewards.
"""
