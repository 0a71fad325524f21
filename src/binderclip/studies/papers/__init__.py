"""One study a paper, found by its id."""
