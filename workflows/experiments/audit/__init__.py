"""Audits of candidates, versions and batches, and the gate before publishing."""
