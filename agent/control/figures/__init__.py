"""Golden signals of this agent in windows of 10 s, an hour of them; asked of all agents at once, and merged."""
