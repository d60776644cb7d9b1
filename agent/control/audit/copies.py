"""Closed segments of this log go to other agents, or to a directory; and those of others are held here.

Laws
- A copy is what was written: it can be verified by itself, with its heads, when the host that wrote it is no more.
- What is held of others is bounded; of whom there is most, the oldest goes first.
- Who sends a segment of a host is that host's agent. Nothing is written under a name that it makes up.
- Erasing a person erases him in copies, too; an agent that is not there then still holds what it has.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from agent import questions
from agent.audit.questions import Got, Piece
from agent.audit.record import MAX_LINE, erased, line, parsed
from agent.control.audit import files
from agent.control.audit.log import AuditLog
from agent.control.audit.witnesses import Ask
from agent.control.identity.way import NoAnswer
from agent.questions import KEEP
from policies.hashing import hash64
from registry.records import Agent

PACKED: Final = ".jsonl.gz"
PART: Final = ".part"
MAX_PIECE: Final = 48 * 1024
MAX_SEGMENT: Final = 64 * 1024 * 1024
"""Packed."""
PEER_S: Final = 4.0
RETRY_S: Final = 30.0
SENT: Final = "copied.json"
ERASED: Final = "erased"
"""Beside copies: how many records of them somebody was erased from here."""
log = structlog.get_logger()


class Copies:
    """Of one agent, both ways."""

    def __init__(
        self,
        audit: AuditLog,
        *,
        agents: Mapping[str, Agent],
        ask: Ask,
        to: int,
        directory: Path | None,
        max_bytes: int,
    ) -> None:
        """`to`: how many other agents have each closed segment; `directory`: where it goes besides; `max_bytes`: of
        what is held of others."""
        self._audit = audit
        self._agents = agents
        self._ask = ask
        self._to = to
        self._directory = directory
        self._max_bytes = max_bytes
        self._sent: dict[str, set[str]] = {}
        """By segment: who has it; the directory as an empty name."""
        self._turn = trio.Lock()
        self._sending = trio.Lock()
        self.problem = ""
        """Why something is not copied yet; empty: all is."""

    # This log's.

    async def run(self) -> None:
        """Until cancelled."""
        await self._audit.opened.wait()
        self._sent = await trio.to_thread.run_sync(self._load)
        while True:
            closed = self._audit.closed
            whole = await self.send_all()
            with trio.move_on_after(RETRY_S if not whole else 3600.0):
                await closed.wait()

    async def send_all(self) -> bool:
        """Whether every closed segment is where it is to be; one at a time."""
        async with self._sending:
            try:
                found = await trio.to_thread.run_sync(files.segments, self._audit.folder)
            except OSError as error:
                self.problem = str(error)
                return False
            closed = [path for path in found if path.suffix == files.CLOSED]
            for name in self._sent.keys() - {path.name for path in closed}:
                del self._sent[name]
            self.problem = ""
            for path in closed:
                await self._send(path)
            return not self.problem

    async def _send(self, path: Path) -> None:
        there = self._sent.setdefault(path.name, set())
        before = len(there)
        packed = b""
        try:
            if self._directory is not None and "" not in there:
                packed = await trio.to_thread.run_sync(_packed, path)
                await trio.to_thread.run_sync(self._put, path.name, packed)
                there.add("")
            for host in self._ranked(there):
                if len(there - {""}) >= self._to:
                    break
                packed = packed or await trio.to_thread.run_sync(_packed, path)
                reason = await self._send_to(host, path.name, packed)
                if reason:
                    self.problem = f"{host}: {reason}"
                else:
                    there.add(host)
            if len(there - {""}) < self._to:
                self.problem = self.problem or "too few other agents live in this mesh"
            if len(there) != before:
                await trio.to_thread.run_sync(self._save)
        except OSError as error:
            self.problem = f"{path.name}: {error.strerror or error}"
            log.warning("a segment of the audit log is not copied", reason=self.problem)

    def _ranked(self, there: set[str]) -> list[str]:
        """Who has none of it, in an order that stays: whose copy is whole can answer for this host."""
        own = self._audit.host
        others = set(self._agents) - {own} - there
        return sorted(others, key=lambda host: hash64(f"{own}\0{host}"))

    def _put(self, name: str, packed: bytes) -> None:
        assert self._directory is not None
        folder = self._directory / self._audit.host
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(folder / (name.removesuffix(files.CLOSED) + PACKED), packed)

    async def _send_to(self, host: str, name: str, packed: bytes) -> str:
        """Why it does not have it; empty: it does."""
        at = 0
        while True:
            piece = packed[at : at + MAX_PIECE]
            last = at + len(piece) >= len(packed)
            body = msgspec.msgpack.encode(Piece(self._audit.host, name, at, piece, last))
            try:
                status, answer = await self._ask(host, KEEP, body, PEER_S)
            except NoAnswer as error:
                return str(error)
            got = questions.read(answer, Got) if status == 200 else questions.refused(status, answer)
            if isinstance(got, str):
                return got
            if got.refused:
                return got.refused
            if got.whole:
                return ""
            if not at < got.size <= len(packed) and got.size != 0:
                return f"it has {got.size} bytes of {len(packed)}"
            if got.size <= at and at:
                return "it does not keep what it is sent"
            at = got.size

    def _load(self) -> dict[str, set[str]]:
        try:
            found = msgspec.json.decode(b"".join(files.lines(self._audit.folder / SENT)), type=dict[str, set[str]])
        except (OSError, ValueError, msgspec.DecodeError):
            return {}
        return found

    def _save(self) -> None:
        files.replace(self._audit.folder / SENT, msgspec.json.encode(self._sent))

    # Others'.

    async def keep(self, asker: str, piece: Piece) -> Got:
        """A piece of a closed segment of another host's."""
        if piece.host != asker or asker == self._audit.host:
            return Got(0, refused=f"it is not a log of {asker}")
        if not files.is_segment(Path(piece.name), files.CLOSED):
            return Got(0, refused="a segment is called otherwise")
        async with self._turn:
            try:
                return await trio.to_thread.run_sync(self._kept, piece)
            except OSError as error:
                return Got(0, refused=f"it cannot be kept: {error.strerror or error}")

    def _kept(self, piece: Piece) -> Got:
        folder = self.folder_of(piece.host)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        whole = folder / (piece.name.removesuffix(files.CLOSED) + PACKED)
        if whole.exists():
            return Got(whole.stat().st_size, whole=True)
        part = whole.with_name(whole.name + PART)
        size = part.stat().st_size if part.exists() else 0
        if piece.offset == 0 and size:
            part.unlink()
            size = 0
        if piece.offset != size or size + len(piece.data) > MAX_SEGMENT:
            return Got(size) if size + len(piece.data) <= MAX_SEGMENT else Got(0, refused="it is too large")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(part, flags, 0o600), "wb", buffering=0) as file:
            file.write(piece.data)
            if piece.last:
                os.fsync(file.fileno())
        if piece.last:
            os.replace(part, whole)
            files.sync_folder(folder)
            self._make_room(whole)
        return Got(size + len(piece.data), whole=piece.last)

    def _make_room(self, newest: Path) -> None:
        """Of the host of which there is most, the oldest goes."""
        while True:
            held = {host: self.held(host) for host in self.hosts()}
            sizes = {host: sum(path.stat().st_size for path in paths) for host, paths in held.items()}
            if sum(sizes.values()) <= self._max_bytes:
                return
            host = max(sizes, key=lambda name: sizes[name])
            oldest = held[host][0]
            if oldest == newest:
                return
            log.warning("copies of audit logs take too much room; the oldest goes", host=host, segment=oldest.name)
            oldest.unlink()

    def folder_of(self, host: str) -> Path:
        """Where what is held of a host stands."""
        return self._audit.folder / files.COPIES / host

    def hosts(self) -> list[str]:
        """Of whom something is held. In a thread."""
        try:
            return sorted(path.name for path in (self._audit.folder / files.COPIES).iterdir() if path.is_dir())
        except OSError:
            return []

    def held(self, host: str) -> list[Path]:
        """Segments of a host, in order. In a thread."""
        try:
            return sorted(path for path in self.folder_of(host).iterdir() if path.name.endswith(PACKED))
        except OSError:
            return []

    async def erase(self, field: str, value: str) -> tuple[int, str]:
        """Somebody, in all that is held of others and in what stands in the directory: how many records, and why not
        in all."""
        async with self._turn:
            return await trio.to_thread.run_sync(partial(self._erase, field, value))

    def _erase(self, field: str, value: str) -> tuple[int, str]:
        done = 0
        paths = [path for host in self.hosts() for path in self.held(host)]
        if self._directory is not None:
            folder = self._directory / self._audit.host
            paths += sorted(folder.glob(f"*{PACKED}")) if folder.is_dir() else []
        for path in paths:
            try:
                many = _erased(path, field, value)
                done += many
                if many and path.parent.parent.name == files.COPIES:
                    known = self.erased_of(path.parent.name)
                    files.replace(path.parent / ERASED, str(known + many).encode())
            except (OSError, EOFError) as error:
                return done, f"{path.name}: {error}"
        return done, ""

    def erased_of(self, host: str) -> int:
        """Records of a host's from which somebody was erased here. In a thread."""
        try:
            return int(b"".join(files.lines(self.folder_of(host) / ERASED))[:20] or b"0")
        except (OSError, ValueError):
            return 0

    def as_state(self) -> dict[str, Any]:
        """What /state shows."""
        return {"copied": len(self._sent), "problem": self.problem}


def _packed(path: Path) -> bytes:
    return gzip.compress(b"".join(files.lines(path)), 6, mtime=0)


def unpacked(path: Path) -> Iterator[bytes]:
    """The lines of a copy; what cannot be unpacked ends it with a line that is none."""
    with os.fdopen(files.opened(path), "rb") as packed, gzip.open(packed) as file:
        try:
            while text := file.readline(MAX_LINE + 1):
                yield text
        except (OSError, EOFError) as error:
            yield f"{error}\n".encode()


def _erased(path: Path, field: str, value: str) -> int:
    done, found = 0, []
    for text in unpacked(path):
        record = parsed(text)
        if not isinstance(record, str) and record.values.get(field) == value:
            text, done = line(erased(record)), done + 1
        found.append(text)
    if done:
        files.replace(path, gzip.compress(b"".join(found), 6, mtime=0))
    return done
