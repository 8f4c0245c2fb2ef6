"""What is asked of every model alike: what shared tables still tell, how far layers moved."""
