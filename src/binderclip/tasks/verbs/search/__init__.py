"""What `search` does: `index` brings an index up to date, `query` asks it."""
