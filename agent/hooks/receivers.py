"""Who may be sent a secret: the agent's own settings say it (`hooks.secrets`), never the document that names the
secret.

A document says both what is sent and where to. If the first alone were judged, whoever may write policies could have
any secret of an agent's sent to a host of theirs.

Laws
- A secret is had for a receiver, and never without one (`steps.Secrets`): the place that is judged is the place that
  it is sent to.
- What the settings say of a secret is all that holds for it. Without a word it may be sent to nobody but the one
  fixed host that its format is for (GitHub's, PagerDuty's and Statuspage's public APIs): that host is not of the
  writer's choosing, and gives no caller's credentials to another.
- A secret that is itself the address goes where it says. Nothing of it is told, not even its host.
- Signing with a secret is sending it: who may have anything signed could forge what its receiver believes.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from policies.language.plain import Flaw
from policies.language.secret import Reference

_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?\Z")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_PORTS: Final = {"https": 443, "http": 80}
_LOCAL: Final = frozenset(("localhost", "127.0.0.1", "::1"))


class Receivers:
    """The table."""

    __slots__ = ("_hosts",)

    def __init__(self, secrets: Mapping[str, Sequence[str]] | None = None) -> None:
        """Raises ValueError that says which entry is none."""
        self._hosts = {name: tuple(_host(name, entry) for entry in hosts) for name, hosts in (secrets or {}).items()}
        for name in self._hosts:
            try:
                _reference(name).check("")
            except Flaw:
                raise ValueError(
                    f"{name[:80]!r} is neither a file's name without slashes nor a variable SHOAL_HOOK_..."
                ) from None

    def refused(self, secret: Reference, url: str, *, fixed: str = "", hidden: bool = False) -> str:
        """Why a secret may not be sent to a URL; empty: it may. `fixed`: the API that the format is for, if it has one.

        `hidden`: the URL is itself a secret, and is not told.
        """
        parts = urlsplit(url)
        host = _plain(parts.hostname or "")
        if parts.scheme == "http" and host not in _LOCAL:
            return f"{_called(secret)} would cross the network readable; use https"
        name = secret.file or secret.env
        hosts = self._hosts.get(name)
        if hosts is None:
            hosts = (_plain(urlsplit(fixed).hostname or ""),) if fixed and parts.scheme == "https" else ()
        if any(_covers(entry, host, parts.port or _PORTS.get(parts.scheme)) for entry in hosts):
            return ""
        key = name if _BARE.match(name) else json.dumps(name)
        listed = ", ".join(json.dumps(entry) for entry in self._hosts.get(name, ()))
        wanted = "its host" if hidden else json.dumps(host)
        line = f"{key} = [{listed}{', ' if listed else ''}{wanted}]"
        where = "where another secret says" if hidden else f"to {host[:100]}"
        return (
            f"{_called(secret)} may not be sent {where}; if it may, say so in agent.toml under [hooks.secrets]: {line}"
        )


def _called(secret: Reference) -> str:
    return f"the secret in the file {secret.file}" if secret.file else f"the secret in the variable {secret.env}"


def _reference(name: str) -> Reference:
    return Reference(env=name) if name.startswith("SHOAL_HOOK_") else Reference(file=name)


def _host(name: str, entry: str) -> str:
    text = entry.strip().lower()
    host, port = _split(text)
    if "/" not in text and port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"{name}: {entry[:80]!r}: {port[:20]!r} is no port")
    if "/" in text or (not _HOST.match(host) and _address(host) is None):
        raise ValueError(
            f"{name}: {entry[:80]!r} is no host, such as api.github.com, *.atlassian.net or redis.corp:6379"
        )
    return text


def _split(text: str) -> tuple[str, str]:
    """Host and port, which may be missing."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, ""


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _plain(host: str) -> str:
    return _address(host) or host.lower().rstrip(".")


def _covers(entry: str, host: str, port: int | None) -> bool:
    allowed, only = _split(entry)
    if only and int(only) != port:
        return False
    if allowed.startswith("*."):
        return host.endswith(allowed[1:]) and len(host) > len(allowed) - 1
    return _plain(allowed) == host
