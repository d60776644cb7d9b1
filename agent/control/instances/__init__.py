"""The instances beside this agent."""
