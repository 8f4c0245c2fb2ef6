"""Carrying out a job: Ray, workers, checkpoints, how it ended."""
