"""Three ways to carry the decoder out: count it, compute it with PyTorch, or record it once and replay it in C++."""
