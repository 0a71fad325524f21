"""How errors fall with data, compute and batch size: power laws, frontiers, crossings, gaps."""
