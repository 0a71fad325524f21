"""Work that is done shard by shard: in this process, or by the workers of a Ray cluster."""
