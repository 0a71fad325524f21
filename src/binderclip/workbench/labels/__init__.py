"""Labels of pictures that a person corrects on a page."""
