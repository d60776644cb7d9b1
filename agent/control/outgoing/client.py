"""One request to where a document says: judged, bounded in time and size, and answered in words where it fails.

Laws
- Addresses are judged (`judged`), redirects are not followed, proxies of the environment are not used.
- An answer is read up to bounds, which hold for what precedes it too (interim answers) and for how small the pieces
  are that it comes in. It is not decoded: what it says to be compressed is taken as it stands.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import NamedTuple

import httpcore
import trio

from agent.control.outgoing.bounds import Allowance, TooMuch, beginning
from agent.control.outgoing.judged import Judged, Refused
from agent.hooks.targets import Targets


class Answer(NamedTuple):
    """What came."""

    status: int
    headers: dict[str, str]
    """Names in small letters; of several that are equal, the last."""
    body: bytes
    whole: bool
    """Whether that is all of it, rather than its beginning."""


class Failure(NamedTuple):
    """Why nothing came."""

    reason: str
    again: bool
    """Whether it may be another time."""


class Client:
    """What this agent's settings let documents call; each request by a connection of its own."""

    def __init__(self, targets: Targets, tls: ssl.SSLContext) -> None:
        self.targets = targets
        self._tls = tls

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        within_s: float,
        most_bytes: int,
        named: bool = False,
    ) -> Answer | Failure:
        """What is answered within so long, up to so many bytes of its body. `named`: only by an address that the
        settings name."""
        fields = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        allowance = Allowance()
        backend = Judged(self.targets, allowance, named=named)
        try:
            with trio.fail_after(within_s):
                async with (
                    httpcore.AsyncConnectionPool(
                        ssl_context=self._tls, network_backend=backend, max_connections=1
                    ) as pool,
                    pool.stream(method, url, headers=fields, content=body) as answer,
                ):
                    allowance.grant(2 * most_bytes)
                    found, whole = await beginning(answer, most_bytes, allowance)
                    said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
                    return Answer(answer.status, said, found, whole)
        except trio.TooSlowError:
            return Failure(f"no whole answer within {within_s:g} s", again=True)
        except TooMuch:
            return Failure("an answer without end, or in pieces that are too small", again=True)
        except Refused as refused:
            return Failure(str(refused), again=False)
        except OSError as error:
            return Failure(f"{error.strerror or error}", again=True)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            return Failure(f"{type(error).__name__}: {_words(error)}"[:300], again=True)
        except httpcore.UnsupportedProtocol as error:
            return Failure(str(error)[:300], again=False)


def _words(error: BaseException) -> str:
    """What went wrong: an error of TLS says it only where it came from."""
    found: BaseException | None = error
    while found is not None and not (str(found) and (found is error or isinstance(found, OSError))):
        found = found.__cause__ or found.__context__
    return str(found) if found is not None else ""
