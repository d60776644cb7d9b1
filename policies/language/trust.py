# mypyc: interpreted, because it reads documents and certificates' names, and no request waits for that
"""Names of trust domains, and of who is in them, as SPIFFE spells them: `us.shoal`, `spiffe://us.shoal/svc/shop`."""

from __future__ import annotations

import re
from typing import Final

SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}\Z")
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+\Z")
_MOST: Final = 2048


def check_trust_domain(text: str) -> str:
    """A trust domain's name as it is. Raises ValueError."""
    if not _TRUST_DOMAIN.match(text):
        raise ValueError(f"{text[:80]!r} is no trust domain: 1 to 255 of a-z, 0-9 and '.-_', such as default.shoal")
    return text


def check_member(text: str) -> str:
    """The name of somebody in a trust domain. Raises ValueError."""
    domain, slash, path = text.removeprefix(SCHEME).partition("/")
    check_trust_domain(domain)
    if len(text) > _MOST or not text.startswith(SCHEME) or not _PATH.match(slash + path):
        raise ValueError(f"{text[:80]!r} names nobody: such as spiffe://us.shoal/svc/shop.production")
    return text
