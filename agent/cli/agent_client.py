"""Asks an agent: JSON over HTTP, through its socket or its admin port, or by a login over TLS; never through a proxy.

The standard library's client is used because a command line is started often: an HTTP framework costs 100 ms a start.
"""

from __future__ import annotations

import http
import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.cli.failure import Exit, Failure

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024


API = "/api/v1"


class Refused(Failure):
    """An agent answers, and says no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Admin:
    """One agent's admin API. Every method raises Failure, with the agent's own reason where it gave one."""

    def __init__(self, place: str, mesh: str, timeout_s: float = TIMEOUT_S) -> None:
        """`place`: the path of a socket, or the URL of an admin port, as `check_place` lets it pass. `mesh`: whose
        login is shown, where the URL is https."""
        self.place = place
        self._mesh = mesh
        self._timeout_s = timeout_s

    def get(self, path: str, query: Iterable[tuple[str, str]] = ()) -> Any:
        encoded = urllib.parse.urlencode(list(query))
        return self._ask("GET", f"{path}?{encoded}" if encoded else path)

    def state(self) -> dict[str, Any]:
        """What the agent says of itself."""
        return self._of_version_1(lambda: self.get(f"{API}/agent"), lambda: self.get("/state", [("services", "0")]))

    def explain(self, request: dict[str, Any]) -> dict[str, Any]:
        """Every decision that a request would meet, `request` as POST /api/v1/explain takes it."""
        headers = [("header", f"{each['name']}: {each['value']}") for each in request.get("headers", [])]
        names = {"url": "url", "method": "method", "caller": "as", "address": "from"}
        query = [(name, request[field]) for field, name in names.items() if request.get(field)]

        def before() -> Any:
            if request.get("claims"):
                raise Failure("that agent is of the version before, and knows of no claims; ask another")
            if request.get("documents"):
                raise _supposes_nothing()
            return self.get("/explain", [*query, *headers])

        try:
            return self._of_version_1(lambda: self.post(f"{API}/explain", request), before)
        except Refused as refused:
            if request.get("documents") and "no field 'documents'" in str(refused):
                raise _supposes_nothing() from None
            raise

    def audit(self, what: str, asked: dict[str, Any]) -> Any:
        """`query`, `verify` or `erase`, as POST /api/v1/audit takes it."""
        return self.post(f"{API}/audit/{what}", asked)

    def instance(self, method: str, path: str, value: Any = None) -> dict[str, Any]:
        """What is asked about instances of this host: `path` is the API's, below /api/v1."""
        return self._of_version_1(
            lambda: self._ask(method, f"{API}{path}", value), lambda: self._ask(method, path, value)
        )

    def _of_version_1(self, ask: Callable[[], Any], before: Callable[[], Any]) -> dict[str, Any]:
        """What the API answers; of an agent of the version before, which has none, or not this, what it had instead."""
        try:
            told = ask()
        except Refused as refused:
            if refused.status not in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.METHOD_NOT_ALLOWED):
                raise
            told = before()
        if not isinstance(told, dict):
            raise Failure("what answers there is no agent of Shoal: its answer is none of an agent's")
        return told

    def text(self, path: str) -> str:
        """A page that is no JSON."""
        return self._bytes("GET", path).decode("utf-8", "replace")

    def post(self, path: str, value: Any) -> Any:
        return self._ask("POST", path, value)

    def _ask(self, method: str, path: str, value: Any = None) -> Any:
        return _decoded(self._bytes(method, path, value))

    def _connection(self) -> http.client.HTTPConnection:
        if self.place.startswith("/"):
            return _UnixConnection(self.place, self._timeout_s)
        parts = urllib.parse.urlsplit(self.place)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        from agent.cli.people.asking import PersonConnection  # cryptography, which takes 100 ms to load

        return PersonConnection(host, port or http.client.HTTPS_PORT, self._mesh, self._timeout_s)

    def _bytes(self, method: str, path: str, value: Any = None) -> bytes:
        body = None if value is None else json.dumps(value).encode()
        headers = {"content-type": "application/json"} if body else {}
        connection = self._connection()
        try:
            try:
                connection.request(method, path, body, headers)
            except BrokenPipeError:
                pass  # it has answered before it had read everything
            answer = connection.getresponse()
            told = answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                f"no agent answers at {self.place} ({_why(error)}); start one with `shoal agent`, or name it with "
                "--admin",
                Exit.UNREACHABLE,
            ) from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise Refused(_refusal(answer, told), answer.status)
        return told


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket that has a path."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """The base class's, by path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def check_place(text: str) -> str:
    """The path of a socket, or the URL of an admin port. Raises Failure for what is neither."""
    path = text.removeprefix("unix://").removeprefix("unix:")
    if path.startswith("/"):
        return path
    if "://" not in path and (path.startswith(".") or path.endswith(".sock") or Path(path).is_socket()):
        return os.path.abspath(path)
    try:
        parts = urllib.parse.urlsplit(text)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise Failure(
            f"--admin {text!r} is no path of a socket such as /run/shoal/agent.sock, and no URL such as "
            "http://127.0.0.1:15000 or https://web-1:15443",
            Exit.USAGE,
        )
    return text.rstrip("/")


def find_socket(environment: Mapping[str, str] = os.environ) -> str:
    """Where the agent of this host is: this user's own, else the host's. Never a place where others may write."""
    home = environment.get("HOME", "")
    places = [Path("/run/shoal")]
    if home:
        places.insert(0, Path(home) / ".local" / "state" / "shoal")
    if given := environment.get("XDG_RUNTIME_DIR"):
        places.insert(0, Path(given) / "shoal")
    if os.geteuid() == 0:
        places.insert(0, Path("/run/shoal"))
    sockets = [place / "agent.sock" for place in places]
    return str(next((path for path in sockets if path.is_socket()), Path("/run/shoal/agent.sock")))


def _why(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__


def _supposes_nothing() -> Failure:
    return Failure("that agent is of a version before, and tells nothing of documents that are not put; ask another")


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        raise Failure("what answers there is no agent of Shoal: it did not answer in JSON") from None


def _refusal(answer: http.client.HTTPResponse, body: bytes) -> str:
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return f"the agent refused: {answer.status} {answer.reason}"
    reason = told.get("reason") or told.get("error") or told.get("detail") or f"{answer.status} {answer.reason}"
    place = told.get("path", "$") if "detail" in told else "$"
    return f"the agent refused: {'' if place == '$' else f'{place}: '}{reason}"
