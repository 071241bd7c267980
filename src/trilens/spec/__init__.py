"""What a model is: frozen dataclasses, and the readers that make them. Standard library only."""
