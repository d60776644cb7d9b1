"""Fetches pip's wheel with nothing but the standard library: for a Python whose ensurepip the system left out.

    python fetch_pip.py DIRECTORY      prints the path of the wheel

Asks the package index that pip itself would ask (PIP_INDEX_URL, else PyPI); checks the wheel against the hash below.
"""

import hashlib
import os
import sys
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

WHEEL = "pip-25.3-py3-none-any.whl"
SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
TIMEOUT_S = 60


class Links(HTMLParser):
    """The links of a PEP 503 page, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (href := dict(attrs).get("href")):
            self.found.append(href)


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read())


def wheel_url(page_url: str) -> str:
    links = Links()
    links.feed(read(page_url).decode())
    for href in links.found:
        url = urllib.parse.urljoin(page_url, href).partition("#")[0]
        if url.endswith("/" + WHEEL):
            return url
    raise LookupError(f"{page_url} does not list {WHEEL}")


def main() -> None:
    wheel = read(wheel_url(f"{INDEX}/pip/"))
    if (digest := hashlib.sha256(wheel).hexdigest()) != SHA256:
        sys.exit(f"{WHEEL} has SHA-256 {digest}, and not the expected {SHA256}")
    target = Path(sys.argv[1]) / WHEEL  # its name is part of a wheel: pip refuses one under another name
    target.write_bytes(wheel)
    print(target)


if __name__ == "__main__":
    main()
