"""Algorithm 1 of arXiv:2604.02183 as printed: its three interventions and what they aim at."""
