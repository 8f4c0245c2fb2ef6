"""Comparisons and sweeps: many runs of one job."""
