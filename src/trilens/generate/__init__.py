"""Tokens: sampling, running requests together, and what each of them cost."""
