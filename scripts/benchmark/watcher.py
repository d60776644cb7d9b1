"""One raw watcher: `python -m scripts.benchmark.watcher URL PREFIX`, the yardstick for convergence.

A plain gRPC watch on etcd's stub, nothing between it and the wire. Notes when each revision came; prints a line when it
is watching, and, when it has seen the key `PREFIX` + `end`, all it noted as JSON: {revision: unix time in ns}.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from typing import Any

import grpc

from registry.etcd.stubs import load


def main() -> None:
    """Watch until the end key comes."""
    url, prefix = sys.argv[1:3]
    rpc, stubs = load()
    key = prefix.encode()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    create = rpc.WatchCreateRequest(key=key, range_end=key[:-1] + bytes([key[-1] + 1]))
    requests.put(rpc.WatchRequest(create_request=create))
    seen: dict[int, int] = {}
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        for answer in stubs.WatchStub(channel).Watch(iter(requests.get, None)):
            now = time.time_ns()
            if answer.created:
                print("watching", flush=True)
            for event in answer.events:
                seen[event.kv.mod_revision] = now
                if event.kv.key.endswith(b"/end"):
                    print(json.dumps(seen), flush=True)
                    return


if __name__ == "__main__":
    main()
