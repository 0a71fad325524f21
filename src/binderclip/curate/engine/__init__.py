"""What signals, statistics and rules are, and how a pipeline runs them over shards."""
