"""Advice of `scale` policies: one agent for each service, which claims it, looks at the figures of all, and tells."""
