"""What only builds the shipped weights."""
