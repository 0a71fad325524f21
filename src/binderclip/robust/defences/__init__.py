"""Training that withstands attacks, and what tells an attacked picture."""
