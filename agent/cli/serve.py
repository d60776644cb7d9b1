"""`shoal agent`: the agent itself."""

from __future__ import annotations


