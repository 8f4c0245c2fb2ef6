"""Ways to make a trained recommender forget: TRU and its parts."""
