"""Metrics over finished runs."""
