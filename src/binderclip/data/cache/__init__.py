"""Features on disk, keyed by a picture's content."""
