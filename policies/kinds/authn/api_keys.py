# mypyc: interpreted, because it reads documents, and hashes by a library
"""API keys: long random texts that programs show instead of a token. A document has their hashes, and what they claim.

Laws
- A key is made by `made`, of 256 random bits, and nothing else is one: what people make up could be guessed, from the
  hash that stands in etcd too. Of such a number a fast hash is as good as a slow one, and a slow one would cost each
  request.
- Hashes are compared in constant time, also where no key has that id.
- Whoever is no longer in the document is nobody, from the next request on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from policies.language.duration import moment
from policies.language.plain import Flaw, below, read_at
from policies.request import TOKEN

MAX_KEYS: Final = 1000
SECRET_BYTES: Final = 32
DEFAULT_HEADER: Final = "x-api-key"
PREFIX: Final = "shoal_"
_KEY: Final = re.compile(r"shoal_([a-z0-9-]{1,40})_[A-Za-z0-9_-]{43}\Z")
_NOBODY: Final = "0" * 64

Said = Annotated[str, Meta(max_length=512)]
Claim = Said | bool | int | tuple[Said, ...]


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One, by its hash."""

    id: Annotated[
        str,
        Meta(
            pattern=r"\A[a-z0-9-]{1,40}\Z",
            description="What it is called; it stands in the key",
            extra={"right": "up to 40 of a-z, 0-9 and '-'"},
        ),
    ]
    hash: Annotated[
        str,
        Meta(
            pattern=r"\Asha256:[0-9a-f]{64}\Z",
            description="Of the key, as `shoal apikey new` prints it",
            extra={"right": "sha256: and 64 of 0-9 and a-f, as shoal apikey new prints it"},
        ),
    ]
    claims: Annotated[dict[str, Claim], Meta(max_length=50, description="What it claims; `sub` is needed")]
    not_after: Annotated[str, Meta(description="When it ends by itself, such as 2027-06-01T00:00:00Z")] = ""


class ApiKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Those that count, and where a request has its own."""

    keys: Annotated[tuple[ApiKey, ...], Meta(min_length=1, max_length=MAX_KEYS, description="Those that count")]
    header: Annotated[str, Meta(description="The header that has the key")] = ""
    query: Annotated[str, Meta(description="The query parameter that has it")] = ""

    def check(self, path: str) -> None:
        """Raises Flaw."""
        if self.header and self.query:
            raise Flaw(path, "one of header and query, not both")
        if self.header and not TOKEN.match(self.header):
            raise Flaw(below(path, "header"), f"{self.header[:60]!r} is no header name")
        ids: set[str] = set()
        for n, key in enumerate(self.keys):
            here = below(path, "keys", n)
            if key.id in ids:
                raise Flaw(below(here, "id"), f"{key.id!r} stands twice; to turn a key, give the new one another id")
            ids.add(key.id)
            if not isinstance(key.claims.get("sub"), str) or not key.claims["sub"]:
                raise Flaw(below(here, "claims"), "without sub, which says whose key it is")
            if key.not_after:
                read_at(below(here, "not_after"), moment, key.not_after)


class Held:
    """One that counts, ready to be compared."""

    __slots__ = ("claims", "hash", "id", "until_s")

    def __init__(self, key: ApiKey, claims: dict[str, str]) -> None:
        """`claims`: as texts."""
        self.id = key.id
        self.hash = key.hash.removeprefix("sha256:")
        self.claims = claims
        self.until_s = moment(key.not_after) if key.not_after else float("inf")


def looks_like_one(text: str) -> bool:
    """Whether it is meant to be a key of ours; no token begins so."""
    return text.startswith(PREFIX)


def id_of(key: str) -> str:
    """What it says that it is called; empty: it is no key."""
    found = _KEY.match(key) if len(key) <= 100 else None
    return found[1] if found is not None else ""


def is_the_same(held: Held | None, key: str) -> bool:
    """Whether a text that has the form of a key is the one that is held."""
    asked = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return hmac.compare_digest(asked, _NOBODY if held is None else held.hash) and held is not None


def made(id: str, random: bytes) -> tuple[str, str]:
    """A new key, which is shown once, and its hash. `random`: SECRET_BYTES of them. Raises ValueError."""
    if len(random) != SECRET_BYTES:
        raise ValueError(f"{SECRET_BYTES} random bytes, not {len(random)}")
    key = f"{PREFIX}{id}_{base64.urlsafe_b64encode(random).rstrip(b'=').decode()}"
    if not _KEY.match(key):
        raise ValueError(f"{id[:60]!r} is no id; up to 40 of a-z, 0-9 and '-'")
    return key, "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def claims_of(key: ApiKey, text: Any) -> dict[str, str]:
    """As texts, which `text` makes of each."""
    return {name: text(value) for name, value in key.claims.items()}
