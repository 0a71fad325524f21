"""Image-text sets: one sample, one data set, and every way to read one: folders, packs, shards, named sets."""
