"""Named attacks: points in the design of `attack`, and walks that are none."""
