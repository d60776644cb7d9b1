"""Commands of identity: `shoal ca`, `host`, `trust` and `join`."""
