"""Models as files: the registry, folders, checkpoints, compact weights, devices."""
