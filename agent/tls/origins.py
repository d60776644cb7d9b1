# mypyc: interpreted, because contexts are made when documents or files change, and no request waits for that
"""Ordinary TLS to instances that speak it themselves (`origin` of `tls`): what an agent verifies there, and shows.

Laws
- OpenSSL verifies: that the chain leads to the document's certificates (or the system's), is in time, and is for the
  document's host name. Common names count for nothing.
- What is shown is the host's, in a file that nobody but the agent's user and root may read; documents name no file.
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import Final

from policies.kinds.tls.document import Origin

ENDING: Final = ".pem"
"""Of `<service>.pem`: chain and key, by the service that is called."""
_PROTOCOLS: Final = ["http/1.1"]


class NotUsable(Exception):
    """Why a client certificate is not, in words."""


def origin_context(origin: Origin, shown: Path | None) -> ssl.SSLContext:
    """To instances of this origin. `shown`: the file of what they are shown. Raises NotUsable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the document has is where a chain may end
    context.hostname_checks_common_name = False
    if origin.ca:
        context.load_verify_locations(cadata=origin.ca)
    else:
        _load_system_roots(context)
    context.set_alpn_protocols(_PROTOCOLS)
    if shown is not None:
        _load(context, shown)
    return context


def check_usable(path: Path) -> None:
    """Whether a file is a client certificate that may be shown. Raises NotUsable."""
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path)


def sni_of(origin: Origin) -> str:
    """What SNI says, and the certificate has to be for."""
    return origin.name.removesuffix(".")


def _check_private(path: Path) -> None:
    """Whether a file is one that only the agent's user and root may read. Raises NotUsable."""
    try:
        found = path.stat()
    except OSError as error:
        raise NotUsable(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise NotUsable(f"{path} is no file")
    if found.st_mode & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise NotUsable(f"{path} may be read or written by others ({mode}), and has a key in it: chmod 600")
    if found.st_uid not in (0, os.geteuid()):
        raise NotUsable(f"{path} belongs to another user than the agent's, or root")


def _load_system_roots(context: ssl.SSLContext) -> None:
    """A folder where OpenSSL finds the one that it looks for costs nothing; all of them in one file cost 80 ms."""
    places = ssl.get_default_verify_paths()
    folder = places.capath
    by_hash = folder is not None and any(name.endswith(".0") for name in os.listdir(folder))
    if by_hash and places.openssl_cafile_env not in os.environ:
        context.load_verify_locations(capath=folder)
    else:
        context.load_default_certs()


def _load(context: ssl.SSLContext, path: Path) -> None:
    _check_private(path)
    try:
        context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as error:
        why = (error.reason or str(error)).replace("_", " ").lower()
        raise NotUsable(f"{path} has no certificate and the key to it, in PEM: {why}") from None
    except (OSError, ValueError) as error:
        raise NotUsable(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


def _no_password() -> str:
    """Nobody is there to be asked at a terminal."""
    raise ValueError("the key has a password, which nobody is there to type")
