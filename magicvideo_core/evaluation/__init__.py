"""Evaluation: prompt sets, the oracle's verdict on runs and on samples in memory, and interpolation against the truth."""
