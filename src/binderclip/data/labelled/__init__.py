"""Pictures with a truth a pixel or an object: label maps, inspection folders, instances."""
