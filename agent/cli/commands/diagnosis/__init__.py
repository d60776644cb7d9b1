"""Is everything as it should be, and what would whoever helps have to know."""
