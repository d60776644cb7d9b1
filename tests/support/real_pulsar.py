"""A real Pulsar, standalone, from its jars (`scripts/interop` fetches them), with the face of its double."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import trio
import trio_websocket

from registry.etcd.server import free_port

JARS: Final = os.environ.get("SHOAL_PULSAR_JARS", "")
"""Where they are; empty: nowhere."""
TOPIC: Final = "persistent/public/default/orders"
PATIENCE_S: Final = 240.0
IDLE_S: Final = 3.0
"""After so long without another message there is none."""
OPENED: Final = (
    "java.base/java.lang",
    "java.base/java.io",
    "java.base/java.util.zip",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.platform",
    "java.management/sun.management",
)
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PulsarStandalone:
    """A process, its bookie and its metadata on disk. What it holds outlives `kill`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._web = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "clusterName": "standalone",
            "brokerServicePort": free_port(),
            "webServicePort": self._web,
            "bindAddress": "127.0.0.1",
            "advertisedAddress": "127.0.0.1",
            "webSocketServiceEnabled": "true",
            "managedLedgerDefaultEnsembleSize": 1,
            "managedLedgerDefaultWriteQuorum": 1,
            "managedLedgerDefaultAckQuorum": 1,
            "brokerDeleteInactiveTopicsEnabled": "false",
            "diskUsageThreshold": "0.99",
            "diskUsageWarnThreshold": "0.98",
        }
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (folder / "standalone.conf").write_text(text)
        self.start()

    @property
    def where(self) -> str:
        return f"ws://127.0.0.1:{self._web}/ws/v2/producer/{TOPIC}"

    def start(self) -> None:
        """Until it has made its namespace."""
        command = ["java", "-Xmx700m", "-cp", f"{JARS}/*"]
        for package in OPENED:
            command += ["--add-opens", f"{package}=ALL-UNNAMED"]
        command += ["org.apache.pulsar.PulsarStandaloneStarter", "-c", "standalone.conf", "-nfw", "-nss"]
        command += ["--metadata-dir", "data/metadata", "--bookkeeper-dir", "data/bookkeeper"]
        with (self._folder / "pulsar.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._ready():
            assert self._process.poll() is None, "Pulsar has ended; see pulsar.log"
            assert time.monotonic() < deadline, f"Pulsar is not ready within {PATIENCE_S:g} s"
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return "public/default" in self._admin("namespaces/public")
        except OSError:
            return False

    def _admin(self, path: str) -> Any:
        with DIRECT.open(f"http://127.0.0.1:{self._web}/admin/v2/{path}", timeout=10) as answer:
            return json.load(answer)

    def records(self) -> list[bytes]:
        """What the subscription for replays has not acknowledged; all of it or nothing is asked for. Raises OSError."""
        subscriptions = self._admin(f"{TOPIC}/stats")["subscriptions"]
        if not subscriptions.get("shoal-replay", {"msgBacklog": 0})["msgBacklog"]:
            return []
        return trio.run(self._read)

    async def _read(self) -> list[bytes]:
        url = f"ws://127.0.0.1:{self._web}/ws/v2/reader/{TOPIC}?messageId=earliest"
        found: list[bytes] = []
        async with trio_websocket.open_websocket_url(url) as socket:
            while True:
                with trio.move_on_after(IDLE_S) as idle:
                    message = json.loads(await socket.get_message())
                    found.append(base64.b64decode(message["payload"]))
                    await socket.send_message(json.dumps({"messageId": message["messageId"]}))
                if idle.cancelled_caught:
                    return found

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    close = kill
