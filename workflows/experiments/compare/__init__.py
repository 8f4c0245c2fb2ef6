"""Comparisons: backbones, forget sets, methods and seeds as runs, and their table."""
