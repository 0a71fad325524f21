"""People on photographs: faces, and whose pixels are a person's, by two small networks that Google released."""
