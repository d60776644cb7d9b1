"""A finding, as every check of the commands makes it."""

from __future__ import annotations

from agent.findings.finding import Finding, Severity, named, ordered

__all__ = ["Finding", "Severity", "named", "ordered"]
