"""What a model is and what a token costs it, seen through the three lenses."""
