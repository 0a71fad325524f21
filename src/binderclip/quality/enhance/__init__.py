"""Networks that make pictures better, trained by what an image-text model sees in them."""
