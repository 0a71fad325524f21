"""Contrastive losses of image-text pairs: links, targets, scale, and how a batch is spread and cut in blocks."""
