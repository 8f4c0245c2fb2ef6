"""The outer ring: Ray, storage and the command line around ``tru_core``."""
