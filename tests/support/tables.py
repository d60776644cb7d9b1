"""A table of control's, and what etcd would tell it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from agent.control.mesh.table import Table
from agent.frames import EndpointFrame, Stage
from registry.keys import Keys
from registry.store import Change

KEYS = Keys()
P = KEYS.prefix


class Etcd:
    """Says what etcd would: every call is one revision, and returns the touched services."""

    def __init__(self, host: str = "here") -> None:
        self.table = Table(KEYS, host)
        self.revision = 1
        self.born: dict[str, int] = {}

    def put(self, values: dict[str, Any]) -> set[str]:
        self.revision += 1
        changes = [self._change(key, as_bytes(value)) for key, value in values.items()]
        return self.table.apply(changes, self.revision)

    def _change(self, key: str, value: bytes | None) -> Change:
        if value is None:
            self.born.pop(key, None)
            return Change(P + key, None, self.revision)
        return Change(P + key, value, self.revision, self.born.setdefault(key, self.revision))

    def delete(self, *keys: str) -> set[str]:
        return self.put(dict.fromkeys(keys))

    def endpoints(self, service: str) -> dict[str, EndpointFrame]:
        frame = self.table.frame(service)
        return {endpoint.id: endpoint for endpoint in frame.endpoints} if isinstance(frame, Stage) else {}


def as_bytes(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else json.dumps(value).encode()


def instance(port: int = 80, **more: Any) -> dict[str, Any]:
    return {"address": "10.0.0.1", "port": port, **more}


KEYS_IN_PLAY = st.sampled_from(
    [f"instances/{s}/{i}" for s in ("a", "b.x", "b/x") for i in "12"]
    + [f"health/{s}/{i}" for s in ("a", "b.x") for i in "12"]
    + [f"hosts/h/instances/{s}/1" for s in ("a", "b.x", "b/x")]
    + ["agents/h", "policies/timeout/*", "policies/timeout/b.x", "policies/timeout/b/x", "policies/route/*.x"]
)
VALUES = {
    "instances": st.sampled_from([None, instance(1), instance(2, agent="h"), instance(3, state="draining"), b"?"]),
    "hosts": st.sampled_from([None, instance(1), instance(4, agent="h"), instance(5, agent="other"), b"?"]),
    "health": st.sampled_from([None, {"healthy": True}, {"healthy": False}]),
    "agents": st.sampled_from([None, {"address": "10.0.0.9", "inbound_port": 1}]),
    "policies": st.sampled_from([None, b"{}"]),
}
STEPS = st.lists(
    KEYS_IN_PLAY.flatmap(lambda key: st.tuples(st.just(key), VALUES[key.partition("/")[0]])), min_size=1, max_size=30
)
