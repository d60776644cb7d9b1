"""Asks the agent on this host, through its admin port: JSON over loopback HTTP, never through a proxy.

The standard library's client is used because a command line is started often: an HTTP framework costs 100 ms a start.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

from agent.cli.failure import Exit, Failure

TIMEOUT_S = 10.0


class Admin:
    """One agent's admin API. Every method raises Failure, with the agent's own reason where it gave one."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        # HTTP_PROXY may well be the mesh's outbound listener: the admin port is not to be reached through that.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, query: Iterable[tuple[str, str]] = ()) -> Any:
        encoded = urllib.parse.urlencode(list(query))
        return self._ask("GET", f"{path}?{encoded}" if encoded else path)

    def post(self, path: str, value: Any) -> Any:
        return self._ask("POST", path, value)

    def put(self, path: str, value: Any) -> Any:
        return self._ask("PUT", path, value)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, value: Any = None) -> Any:
        body = None if value is None else json.dumps(value).encode()
        headers = {"content-type": "application/json"} if body else {}
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310 - see check_url
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return _decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise Failure(_refusal(error, error.read())) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Failure(
                f"no agent answers at {self.url} ({reason}); start one with `shoal agent`, or name it with --admin",
                Exit.UNREACHABLE,
            ) from None


def check_url(url: str) -> str:
    """The URL of an admin port. Raises Failure for what is none."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failure(f"--admin {url!r} is no URL such as http://127.0.0.1:15000", Exit.USAGE)
    return url


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise Failure("what answers at the admin port is no agent of Shoal: it did not answer in JSON") from None


def _refusal(error: urllib.error.HTTPError, body: bytes) -> str:
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    reason = told.get("reason") or told.get("error") or told.get("detail") if isinstance(told, dict) else None
    return f"the agent refused: {reason or f'{error.code} {error.reason}'}"
