# mypyc: interpreted, because its texts are a kind of str
"""What a claim is to headers, and to who is sent all of them.

Laws
- It is written there as conditions see it (`policies.claim`).
- In a header stands nothing but printable ASCII: all else, `%`, and blanks at either end are percent-encoded as in URLs
  (RFC 3986, UTF-8), so that whoever decodes has the text again, and no claim ends a line.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from policies.claim import Json

_PRINTABLE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def in_header(text: str) -> bytes:
    """As a header has it."""
    body = text.strip(" ")
    blanks = len(text) - len(text.lstrip(" ")) if body else len(text)
    found = quote(body, safe=_PRINTABLE, errors="surrogatepass")
    return ("%20" * blanks + found + "%20" * (len(text) - blanks - len(body))).encode("ascii")


def all_in_header(claims: Mapping[str, str]) -> bytes:
    """All of them: a JSON object in base64url (RFC 7515), without padding."""
    members = ",".join(
        f"{json.dumps(name)}:{json.dumps(json.loads(text)) if isinstance(text, Json) else json.dumps(text)}"
        for name, text in claims.items()
    )
    return base64.urlsafe_b64encode(f"{{{members}}}".encode()).rstrip(b"=")
