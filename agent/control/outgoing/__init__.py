"""Calls that leave this agent because a document says so, and are judged first."""
