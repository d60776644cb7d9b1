"""`shoal bundle`: what a report of a fault needs, in one file, without secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

import agent
from agent import build
from agent.cli.commands.diagnosis.redacted import redacted, redacted_text
from agent.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from agent.cli.options import Options
    from registry.store import KeyValue, Store

SKIPPED: Final = "identity"
"""A room of keys that no report needs."""


def bundle(
    context: typer.Context,
    path: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="Default: shoal-bundle-TIME.tar.gz.")] = "",
) -> None:
    """Pack what a report of a fault needs: what `check` finds, the keys of the mesh, and the agent's state and metrics.

    Secrets are taken out; look through it before you hand it on, all the same. What cannot be had is said in it.

    Example:  shoal bundle -f report.tar.gz
    """
    options: Options = context.obj
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = Path(path or f"shoal-bundle-{stamp}.tar.gz")
    parts = contents(options)
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failure(f"{target}: {error.strerror}", Exit.USAGE) from None
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in parts.items():
            _add(archive, f"shoal-bundle-{stamp}/{name}", text)
    if options.printer.json:
        options.printer.value({"file": str(target), "parts": list(parts)})
    else:
        options.printer.text(str(target))
        options.printer.note(f"{', '.join(parts)}; secrets are taken out: look through it before you hand it on")


def contents(options: Options) -> dict[str, str]:
    """By name of a file, its text."""
    return {
        "about.json": _json(_about(options)),
        "check.json": _told(lambda: _checked(options)),
        "keys.json": _told(lambda: _keys(options)),
        "state.json": _told(lambda: options.admin.get("/state")),
        "metrics.txt": _text_of(options),
    }


def _about(options: Options) -> dict[str, Any]:
    return {
        "shoal": agent.VERSION,
        "build": build.describe(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "etcd": list(options.etcd),
        "mesh": options.mesh,
        "at": time.time(),
    }


def _checked(options: Options) -> Any:
    from agent.cli.commands.diagnosis.gather import looked

    return msgspec.to_builtins(looked(options)[1])


def _keys(options: Options) -> Any:
    from agent.cli.etcd_client import ask

    return [_plain(item) for item in ask(options, lambda store: _read(store, options.mesh))]


async def _read(store: Store, mesh: str) -> list[KeyValue]:
    from registry.keys import Keys
    from registry.store import prefix_end

    prefix = Keys(mesh).prefix
    found = (await store.range(prefix, prefix_end(prefix))).items
    return [item for item in found if not item.key.startswith(f"{prefix}{SKIPPED}/")]


def _plain(item: KeyValue) -> dict[str, Any]:
    """A key; of a value that cannot be read, and so cannot be judged, only its length."""
    value = _loaded(item.value)
    if isinstance(value, dict) and isinstance(document := value.get("document"), str) and document:
        value = {**value, "document": _loaded(document.encode())}  # of last_good/ and held/
    return {
        "key": item.key.encode("utf-8", "backslashreplace").decode(),
        "value": value,
        "mod_revision": item.mod_revision,
        "version": item.version,
        "lease": f"{item.lease:x}",
    }


def _loaded(text: bytes) -> Any:
    from policies.language.plain import Flaw, load

    try:
        return load(text)
    except Flaw as flaw:
        return f"({len(text)} bytes: {flaw.reason})"


def _told(question: Callable[[], Any]) -> str:
    try:
        return _json(question())
    except Failure as failure:
        return _json({"error": failure.message})


def _text_of(options: Options) -> str:
    try:
        return redacted_text(options.admin.text("/metrics"))
    except Failure as failure:
        return f"# {redacted_text(failure.message)}\n"


def _json(value: Any) -> str:
    return json.dumps(redacted(value), indent=1, ensure_ascii=False) + "\n"


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    encoded = text.encode("utf-8", "backslashreplace")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(encoded), 0o600, int(time.time())
    archive.addfile(info, io.BytesIO(encoded))
