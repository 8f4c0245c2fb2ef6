"""Audits: what tells whether a model forgot, apart from every method and its losses."""
