"""Commands about what is so now: golden signals, what should be scaled, changes as they come into force."""
