"""The algorithm: recommenders, targeted reverse update, rankings. Only torch and numpy, no Ray or storage."""
