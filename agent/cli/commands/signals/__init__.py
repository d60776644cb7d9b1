"""Commands about golden signals: `shoal top`, and what should be scaled."""
