"""Batches of deletions: what makes one, the attempts at a model, the steps to its effect, the purge."""
