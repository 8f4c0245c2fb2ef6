"""TRU: rows that never saw the deleted, then matched reverse steps with a stop rule."""
