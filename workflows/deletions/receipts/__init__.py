"""Receipts of batches: issued once, kept in a log, handed out, checked against the storage."""
