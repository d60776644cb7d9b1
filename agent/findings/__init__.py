"""What is wrong, in words, with the next step: what commands find, and what an agent finds of itself. Pure."""
