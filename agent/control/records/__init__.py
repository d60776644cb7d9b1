"""What has happened, a line each, on its way out of this agent: one pipeline for requests, audit and events."""
