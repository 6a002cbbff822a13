"""Evaluation: prompt sets, the oracle on runs and on samples in memory, interpolation against the truth."""
