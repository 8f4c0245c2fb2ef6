"""Signed receipts: what they say, how they are signed, and how anybody checks them offline."""
