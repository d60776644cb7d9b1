"""A real Redis for a test: from Debian's redis-server, or the same program as redis-tools brings it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.topics.broker import connect
from agent.topics.redis import Connection
from policies.kinds.shed.topic import parse_topic
from tests.support.proxy import refusing_port


def program() -> list[str] | None:
    """How it is started; Debian's redis-server is a link to the program that redis-tools has."""
    if shutil.which("redis-server"):
        return ["redis-server"]
    if found := shutil.which("redis-check-rdb"):
        return ["bash", "-c", f'exec -a redis-server {found} "$@"', "redis-server"]
    return None


class RedisProcess:
    """One, which keeps what it acknowledged through its own death."""

    def __init__(self, folder: Path, *more: str) -> None:
        command = program()
        if command is None:
            pytest.skip("no redis-server here: apt-get install redis-tools")
        self._folder = folder
        self.port = refusing_port()
        self._command = [*command, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *more]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, stream: str) -> str:
        return f"redis://127.0.0.1:{self.port}/0?stream={stream}"

    def start(self) -> None:
        """And wait until it listens."""
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "Redis does not start"
                time.sleep(0.02)

    def kill(self) -> None:
        """At once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def pause(self, *, on: bool) -> None:
        """Hang, and go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def ask(self, *words: str | int, password: str = "") -> Any:
        """A command's answer."""

        async def asking() -> Any:
            stream = await connect(parse_topic(self.url("any")), None)
            async with stream:
                connection = Connection(stream)
                if password:
                    await connection.ask("AUTH", password)
                return await connection.ask(*words)

        return trio.run(asking)

    def entries(self, stream: str, password: str = "") -> list[bytes]:
        """The records in a stream."""
        return [fields[3] for _, fields in self.ask("XRANGE", stream, "-", "+", password=password)]

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
