"""The forward pass, written once against a small vocabulary of operations."""
