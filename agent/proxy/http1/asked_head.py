# mypyc: compiled
"""The head of a request that somebody wrote down to have it explained, read by the rules of a listener."""

from __future__ import annotations

from urllib.parse import urlsplit

from agent.proxy.http1.head import parse_request
from agent.proxy.messages.head import BadHead, HeadRules, RequestHead
from agent.questions import Explain


def request_of(asked: Explain, rules: HeadRules) -> RequestHead:
    """The request that is asked about. Raises BadHead."""
    try:
        parts = urlsplit(asked.url if "://" in asked.url else f"http://{asked.url}")
    except ValueError as error:
        raise BadHead(f"no URL: {error}") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{asked.method.upper() or 'GET'} {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{field[0]}: {field[1]}" for field in asked.headers if field[0].lower() != "host"]
    try:
        return parse_request("\r\n".join(lines).encode("latin-1"), rules)
    except UnicodeEncodeError:
        raise BadHead("a URL or header that is not ASCII: percent-encode it") from None
