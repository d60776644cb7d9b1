"""What a person asks of one agent and all agents know: asked of every one, answered by each, merged by who asked."""
