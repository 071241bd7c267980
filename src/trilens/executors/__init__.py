"""Three ways to run the decoder: count its cost, compute it with PyTorch, or record it once and replay it in C++."""
