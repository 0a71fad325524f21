"""A small vision-language model: an image tower's patches as the first words of a causal decoder."""
