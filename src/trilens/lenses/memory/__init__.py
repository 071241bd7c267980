"""What a model takes of memory, here and in llama.cpp."""
