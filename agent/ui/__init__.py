"""The page, as it was built: files that an agent and `shoal dashboard` serve. Pure but for reading them.

Laws
- They are read once, whole, and within MOST_BYTES. What is no plain file with a kind that is known here is not served.
- What lies in `assets/` has its content's hash in its name, and never changes; the page itself may.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final, NamedTuple

INDEX: Final = ""
"""The name of the page itself."""
ASSETS: Final = "assets"
MOST_FILES: Final = 200
MOST_BYTES: Final = 8 * 1024 * 1024
"""All of them together."""
WORTH_BYTES: Final = 512
"""Less is not compressed."""
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "css": "text/css; charset=utf-8",
        "html": "text/html; charset=utf-8",
        "ico": "image/x-icon",
        "js": "text/javascript; charset=utf-8",
        "json": "application/json",
        "png": "image/png",
        "svg": "image/svg+xml",
        "txt": "text/plain; charset=utf-8",
        "webp": "image/webp",
        "woff2": "font/woff2",
    }
)
_PACKED: Final = ("png", "webp", "woff2")


class File(NamedTuple):
    """One that is served."""

    body: bytes
    packed: bytes
    """By gzip; empty where that is no gain."""
    kind: str
    """Its media type."""
    tag: str
    """Of what it says (RFC 9110, section 8.8.3), with its quotes."""
    forever: bool
    """Whether what has this name never says anything else."""


@cache
def built() -> Mapping[str, File]:
    """By name: `assets/index-1a2b.js`, and INDEX. Empty where there are none. Takes some tenths of a second; call it in
    a thread. Raises ValueError for more than may be."""
    return read(resources.files(__name__) / "built")


def read(folder: Traversable) -> Mapping[str, File]:
    """Of a folder with `index.html` and `assets/`. Raises ValueError."""
    found: dict[str, File] = {}
    left = MOST_BYTES
    places = (("", folder), (f"{ASSETS}/", folder / ASSETS))
    for prefix, place in places:
        for each in sorted(place.iterdir(), key=lambda each: each.name) if place.is_dir() else ():
            ending = each.name.rpartition(".")[2]
            if not each.is_file() or ending not in KINDS:
                continue
            body = each.read_bytes()
            left -= len(body)
            if left < 0 or len(found) >= MOST_FILES:
                raise ValueError(f"the page is more than {MOST_FILES} files or {MOST_BYTES} bytes")
            name = INDEX if prefix + each.name == "index.html" else prefix + each.name
            found[name] = _file(body, ending, forever=bool(prefix))
    return MappingProxyType(found)


def _file(body: bytes, ending: str, *, forever: bool) -> File:
    packed = gzip.compress(body, 6, mtime=0) if ending not in _PACKED and len(body) >= WORTH_BYTES else b""
    tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
    return File(body, packed if len(packed) < len(body) else b"", KINDS[ending], tag, forever)
