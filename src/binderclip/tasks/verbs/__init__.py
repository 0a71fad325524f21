"""One task a file or folder: what it is asked, what it does, what it says."""
