"""What is found out by running models: the four combinations, and where a router sends a call."""
