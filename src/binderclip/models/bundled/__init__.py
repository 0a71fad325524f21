"""The architectures of the bundled models, beside their weights."""
