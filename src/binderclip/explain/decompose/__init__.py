"""The image embedding as a sum over heads, layers and tokens, and what the terms mean."""
