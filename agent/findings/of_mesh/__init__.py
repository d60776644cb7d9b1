"""What is wrong with a mesh: facts in, findings out. Pure; a check is one function, and its line in `checks`."""
