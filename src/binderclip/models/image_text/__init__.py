"""The image-text model: one face over open_clip and Hugging Face, its preprocessing and its classifiers."""
