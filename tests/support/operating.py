"""The command line of whoever operates a mesh, against a real etcd."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import trio

from agent.cli.main import main
from agent.cli.printing import answered
from registry.etcd.server import EtcdProcess
from registry.etcd.store import EtcdStore
from registry.keys import Keys
from tests.support.asking import Hosts
from tests.support.mesh import ROOT

_numbers = itertools.count(1)


class Mesh:
    """One mesh: its keys, its hosts, and the command line of whoever operates it, in a directory of his own."""

    def __init__(self, etcd: EtcdProcess, store: EtcdStore, folder: Path) -> None:
        self.name = f"m{next(_numbers)}"
        self.keys = Keys(self.name)
        self.store = store
        self.hosts = Hosts(store, self.keys)
        self.folder = folder
        self.key = folder / f"{self.name}.shoal-root.key"
        self._etcd = etcd

    async def shoal(self, *words: str, code: int = 0, apart: bool = False) -> subprocess.CompletedProcess[str]:
        """A command; it ends with `code`. `apart`: in a process of its own, as several at once have to be."""
        command = ["--etcd", self._etcd.url, "--mesh", self.name, "--admin", "http://127.0.0.1:1", *words]
        run = self._apart if apart else self._here
        done = await trio.to_thread.run_sync(run, command)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def _apart(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "agent", *command],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )

    def _here(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        answered.clear()
        before = sys.argv
        with redirect_stdout(out), redirect_stderr(err), chdir(self.folder):
            sys.argv = ["shoal", *command]
            try:
                main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.argv = before
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    async def json(self, *words: str, code: int = 0) -> Any:
        """What it answers a script."""
        return json.loads((await self.shoal(*words, "-o", "json", code=code)).stdout)

    async def init(self, *issuers: str) -> None:
        """A CA, whose issuers live and have their intermediates, and hold what they may."""
        for host in issuers:
            await self.hosts.live(host)
            await self.hosts.ask(host)
        await self.shoal("ca", "init", *(word for host in issuers for word in ("--issuer", host)))

    async def value(self, key: str) -> Any:
        """A document in etcd; None: there is none."""
        item = await self.store.get(key)
        return None if item is None else json.loads(item.value)
