"""The proxy workers."""
