"""A batch of deletions, from what is due to receipts."""
