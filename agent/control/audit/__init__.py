"""The audit log of this host: written, witnessed by other agents, copied to them, and asked."""
