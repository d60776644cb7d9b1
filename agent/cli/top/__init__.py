"""`shoal top` apart from its loop: what is looked at, what keys do, and how rows are drawn. Pure."""
