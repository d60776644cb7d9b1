"""The demo's scenes about who is who: encryption turned on under load, every certificate replaced, a stolen host."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from protection import calls
from stage import Broken, Host, read
from traffic import Answer

if TYPE_CHECKING:
    from story import Story

LAMPS = "lamps.production"
TLS = "/shoal/default/policies/tls/*"


def encryption(story: Story, service: str) -> None:
    """From plain text to mTLS and nothing else."""
    tell, stage = story.tell, story.stage
    tell.scene("Encryption, while it serves: a root, an issuer, a grant. No service is touched, nothing is restarted.")
    failed, start = len(story.traffic.failures()), time.monotonic()
    init = ["ca", "init", "--issuer", "alpha", "--root-key", str(stage.directory / "root.key")]
    tell.command("shoal ca init --issuer alpha")
    stage.shoal(*init)
    tell.command("shoal ca init --grant-observed > grants.sh; sh grants.sh")
    for line in stage.shoal("ca", "init", "--grant-observed").splitlines():
        if line.startswith("etcdctl put "):
            key, _, value = line.removeprefix("etcdctl put ").partition(" ")
            stage.etcdctl("put", key.strip("'"), value.strip("'"))
    awaited("certificates", lambda: all(holds(host, f"svc/{service}") for host in stage.hosts))
    story.put(TLS, {"mtls": "strict"})
    time.sleep(1.5)
    count = len(story.traffic.since(start))
    tell.promise(len(story.traffic.failures()) == failed, f"no request failed, of {count}, from plain text to strict")
    alpha, beta = stage.hosts
    refused = _in_plain_text(alpha, beta, service)
    tell.promise(refused == 403, f"plain text from another host gets {refused}")


def rotation(story: Story) -> None:
    """Leaves, the intermediate and the root."""
    tell, stage = story.tell, story.stage
    tell.scene("Every certificate is replaced, and the root with them.")
    failed, start = len(story.traffic.failures()), time.monotonic()
    for words in (["leaf"], ["root", "--root-key", str(stage.directory / "new-root.key")]):
        tell.command(f"shoal ca rotate {words[0]}")
        stage.shoal("ca", "rotate", *words)
    count = len(story.traffic.since(start))
    tell.promise(len(story.traffic.failures()) == failed, f"no request failed, of {count}")


def stolen(story: Story) -> None:
    """A host is revoked; what it holds convinces nobody any more."""
    tell, stage = story.tell, story.stage
    tell.scene("A host is stolen: its keys, its agent, its connections. It calls a service of another host.")
    alpha, beta = stage.hosts
    stage.start_service(LAMPS, alpha, "v1", "l1")
    stage.await_instances(LAMPS, 1)
    stage.etcdctl("put", f"/shoal/default/identity/grants/{LAMPS}", '{"hosts": ["alpha"]}')
    awaited("its certificate", lambda: holds(alpha, f"svc/{LAMPS}"))
    awaited("an answer", lambda: works(calls(beta.address, beta.outbound, LAMPS, 1)[0]))
    tell.promise(all(map(works, calls(beta.address, beta.outbound, LAMPS, 20))), "until now it is one of us")
    tell.command("shoal ca revoke host beta --reason stolen")
    stage.shoal("ca", "revoke", "host", "beta", "--reason", "stolen")
    revoked = time.monotonic()
    awaited("the revocation", lambda: not works(calls(beta.address, beta.outbound, LAMPS, 1)[0]))
    after = calls(beta.address, beta.outbound, LAMPS, 20)
    tell.say(f"the last answer: {after[-1].problem[:160]}")
    seconds = time.monotonic() - revoked
    tell.promise(not any(map(works, after)), f"after {seconds:.1f} s it reaches nothing of another host")


def works(answer: Answer) -> bool:
    """Whether it is one."""
    return not answer.problem


def holds(host: Host, name: str) -> bool:
    return f'"{name}"' in read(f"{host.admin_url}/state?services=0")


def _in_plain_text(caller: Host, callee: Host, service: str) -> int:
    """The status of a request to a host's inbound port from another host's address."""
    source = (caller.address, 0)
    connection = http.client.HTTPConnection(callee.address, callee.inbound, timeout=5, source_address=source)
    try:
        connection.request("GET", "/cats", headers={"Host": service})
        return connection.getresponse().status
    finally:
        connection.close()


def awaited(what: str, done: Callable[[], bool], patience_s: float = 20.0) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise Broken(f"{what}: not there after {patience_s:g} s")
        time.sleep(0.1)
