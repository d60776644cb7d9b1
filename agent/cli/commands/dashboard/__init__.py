"""`shoal dashboard`: the page on this machine, with the rights of the person who has started it."""
