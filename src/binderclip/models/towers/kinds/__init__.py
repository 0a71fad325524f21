"""One file for each library's model behind the one interface."""
