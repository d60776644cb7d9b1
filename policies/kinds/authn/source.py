# mypyc: interpreted, because it reads documents, and no request waits for that
"""Where an issuer's keys are had from, as a document says: a URL of theirs, or the issuer's own description."""

from __future__ import annotations

from typing import Final, NamedTuple

from policies.language.url import check_url

WELL_KNOWN: Final = "/.well-known/openid-configuration"


class Source(NamedTuple):
    """Keys of one source are kept apart from those of any other."""

    url: str
    """Of the keys; or of a description that says where they are."""
    issuer: str = ""
    """Whose description it has to be, to the letter; empty: it is the keys themselves."""

    @property
    def name(self) -> str:
        """By which it is known between processes and on disk."""
        return f"discover {self.issuer}" if self.issuer else self.url


def of_keys(url: str) -> Source:
    """A URL of keys. Raises ValueError."""
    check_url(url, "keys are public")
    return Source(url)


def of_issuer(issuer: str) -> Source:
    """By OpenID Connect Discovery 1.0, section 4. Raises ValueError."""
    check_url(issuer, "keys are public")
    if "?" in issuer:
        raise ValueError("an issuer that is discovered has no query")
    return Source(issuer.removesuffix("/") + WELL_KNOWN, issuer)
