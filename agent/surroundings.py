"""What this process was told in its environment, and whom it may be handed on to.

Law: a secret of ours goes to nobody that we start: neither to a program of a service, nor to a worker or a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SECRETS: Final = ("SHOAL_ETCD_PASSWORD", "SHOAL_SECRET")
_HOOKS: Final = "SHOAL_HOOK_"
"""Secrets of webhooks, which only control sends."""


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what is secret."""
    return {name: value for name, value in environment.items() if name not in SECRETS and not name.startswith(_HOOKS)}
