"""`agent.toml`: what an agent is told."""
