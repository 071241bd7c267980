"""A model's weights to a file of another form or type."""
