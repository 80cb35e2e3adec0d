"""What the library adds to the torch operations of a small step."""
