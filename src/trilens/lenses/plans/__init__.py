"""Whether a model fits a machine, how fast it is there, and which models do."""
