"""What `shoal run` does to a program: where it listens, and that it is one job."""
