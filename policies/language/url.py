# mypyc: interpreted, because it reads documents, and no request waits for that
"""URLs as documents write them: absolute, of HTTP, and with one reading."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_HOST: Final = re.compile(
    r"(?=.{1,254}\Z)(?:[A-Za-z0-9][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]{2,45}\])\Z"
)


def check_url(url: str, instead: str = "use a header with a reference") -> None:
    """Raises ValueError that says what would be right. `instead`: of a user and a password."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url or len(url) > 2048:
        raise ValueError("no URL: printable ASCII without spaces, at most 2048")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("no URL, which begins with https:// and a host")
    if "@" in parts.netloc:
        raise ValueError(f"a user or password in the URL; {instead}")
    if not _HOST.match(parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc.rstrip(":")):
        raise ValueError(f"{host[:60]!r} is no host")
    if "#" in url:
        raise ValueError("a fragment is never sent")
