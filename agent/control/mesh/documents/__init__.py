"""Which documents are in force, and which are only watched."""
