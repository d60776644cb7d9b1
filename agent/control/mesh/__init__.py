"""The mesh as this host knows it, and what it reports of itself."""
