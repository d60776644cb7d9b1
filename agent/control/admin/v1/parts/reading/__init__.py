"""What is read on: requests, live ones, and what programs write, of every agent."""
