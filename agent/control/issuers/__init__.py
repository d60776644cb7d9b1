"""Keys of those who make tokens: fetched, kept, and handed to who verifies."""
