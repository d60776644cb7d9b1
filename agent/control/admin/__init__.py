"""What people and programs of this host may ask the agent for."""
