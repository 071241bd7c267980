"""The fast path on CPUs: the decoder recorded once into a program, replayed in C++ for every step."""
