"""Files that tasks read and write: which may be written, and how they say who made them."""
