"""Sweeps: Ray Tune over the settings of a method."""
