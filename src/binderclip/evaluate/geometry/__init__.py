"""Where embeddings lie, and maps in front of a similarity that put them elsewhere (p037, p096, p111)."""
