"""Section `authz`: what it costs a request to be judged: rules, CEL, Rego and an OPA, remembered and not; tokens; and
what audit records cost.

One agent, the job of peers.py, its instances beside it, so that each request is judged once. A row is a set of
documents and who asks: each round measures it off and on in turn, with the same requests; quoted are the median and the
smallest and largest of the differences. Requests that are `new` have paths and tokens that nobody has sent before.

The figures are those of the agent and all its processes. An OPA is another program's, beside it: its own cost is told
apart. It is had by `SHOAL_OPA` (scripts/interop builds one); without it its rows are left out.

What the last of a thousand rules takes is too little to be seen in that, on a machine whose rounds differ by twenty
microseconds: the decision alone is timed as well, in this process, by the code that a worker runs.

The last rows are about others: requests to a service without any of this, while a hostile document in Rego is asked
about another one's, fifty times a second.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from agent.proxy.http1.head import parse_request
from agent.proxy.phases.view import HeadView
from policies.kinds.authz.decide import compile as compile_authz
from policies.kinds.authz.document import Authz
from policies.language.document import convert
from registry.etcd.server import free_port
from registry.keys import Keys
from scripts.benchmark import mesh, traffic
from scripts.benchmark.agents import Agent, running_agent, swap
from scripts.benchmark.cpu import WARM_S, measure_once
from scripts.benchmark.etcd import serving_etcd
from scripts.benchmark.goal import Goal
from scripts.benchmark.load import answers, saturate
from scripts.benchmark.peer import Proxy
from scripts.benchmark.processes import wait_until
from scripts.benchmark.run import Run
from scripts.benchmark.turns import Turns

TOKENS: Final = 20_000
"""More than any cache of them keeps."""
PUBLIC: Final = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
PRIVATE: Final = {**PUBLIC, "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}
REGO: Final = (
    'package shoal\ndefault allow := false\nallow if {\n  input.method == "GET"\n  startswith(input.path, "/pets")\n}\n'
)
BOMB: Final = (
    "package shoal\nallow if { x := [1 | numbers.range(1, 3000)[_]; numbers.range(1, 3000)[_]]; count(x) > 0 }\n"
)
HOSTILE_PER_S: Final = 50
ALONE: Final = 20_000
"""Decisions that are timed at once."""
ASKS: Final = ["method", "path"]
NEW_PATHS: Final = """local at = 0
request = function()
  at = at + 1
  return "GET /pets/" .. at .. "?fields=name,kind HTTP/1.1\\r\\n" .. rest
end
"""


class Row(msgspec.Struct, frozen=True):
    """One set of documents."""

    name: str
    documents: dict[str, dict[str, Any]]
    """By kind."""
    requests: str = "usual"
    """Or: token, new path, new token."""
    opa: bool = False


class Cost(Turns, frozen=True):
    """Of a row, over all rounds."""

    opa_us: list[float] = msgspec.field(default_factory=list)
    """Of the OPA's own process, a request; nothing where none is asked."""

    @property
    def p99_ratio(self) -> list[float]:
        """On to off, round by round."""
        return [on / max(1, off) for off, on in zip(self.off_p99_us, self.on_p99_us, strict=True)]


class Result(msgspec.Struct, frozen=True):
    """What the section found."""

    costs: list[Cost]
    others: Cost
    alone_us: dict[int, float]
    """A decision by itself, by how many rules there are."""


def rules(count: int) -> dict[str, Any]:
    """So many of caller, method and prefix, of which the last one is the request's."""
    found: list[dict[str, Any]] = [
        {"allow": [f"caller-{n}.production"], "match": {"method": ["GET"], "path": {"prefix": f"/part-{n}"}}}
        for n in range(count - 1)
    ]
    return {"rules": [*found, {"allow": "anybody", "match": {"method": ["GET"], "path": {"prefix": "/pets"}}}]}


def rows(opa: str) -> list[Row]:
    """All of them; `opa`: the URL of one, where there is one."""
    when = 'request.method == "GET" && request.path.startsWith("/pets")'
    asked = {"url": opa, "path": "shoal/allow", "reads": ASKS}
    provider = {"issuer": "https://login", "audiences": ["pets"], "algorithms": ["EdDSA"], "jwks": {"keys": [PUBLIC]}}
    people = {"providers": [provider], "required": True}
    rego = {"modules": {"pets.rego": REGO}}
    found = [
        *(Row(f"{count:,} rule{'s' * (count > 1)}", {"authz": rules(count)}) for count in (1, 100, 1000)),
        Row("CEL", {"authz": {"rules": [{"allow": "anybody", "when": when}]}}),
        Row("Rego, remembered", {"authz": {"rego": rego}}),
        Row("Rego, new", {"authz": {"rego": rego}}, "new path"),
        Row("OPA, remembered", {"authz": {"opa": {**asked, "cache": "5m"}}}, opa=True),
        Row("OPA, each", {"authz": {"opa": asked}}, "new path", opa=True),
        Row("JWT, remembered", {"authn": people}, "token"),
        Row("JWT, new", {"authn": people}, "new token"),
        Row("audit, 1 in 100", {"audit": {"requests": "all", "share": 0.01}}),
        Row("audit, all", {"audit": {"requests": "all"}}),
        Row("audit, all, on disk first", {"audit": {"requests": "all", "durability": "sync"}}),
    ]
    return [row for row in found if opa or not row.opa]


def measure(run: Run) -> Result:
    """Off, on, off, on."""
    keys, wanted = Keys(), os.environ.get("SHOAL_BENCH_AUTHZ", "")
    with ExitStack() as stack:
        upstream = stack.enter_context(run.upstream())
        url = stack.enter_context(serving_etcd(run.workdir))
        mesh.put_all(url, mesh.pets_and_films(keys, upstream))
        opa = stack.enter_context(running_opa(run))
        allow = json.dumps([opa.url] if opa.url else [])
        agent = stack.enter_context(
            running_agent(run.workdir, "authz", url, cpus=run.proxy_cpus, more=f"[opa]\nallow = {allow}")
        )
        wait_until("shoal", lambda: answers(agent.outbound), agent.program)
        proxy = Proxy("shoal", agent.outbound, agent.program, agent.roles)
        saturate(proxy.port, WARM_S, run.workdir, run.load_cpus)
        chosen = [row for row in rows(opa.url) if wanted in row.name]
        costs = {row.name: Cost(row.name, [], [], [], [], []) for row in chosen}
        others = Cost("others' requests beside a hostile document", [], [], [], [])
        loads = {name: _load(run, name) for name in {row.requests for row in chosen}}
        for number in range(1, run.rounds + 1):
            for row in chosen:
                _once(loads[row.requests], agent, proxy, url, keys, row, costs[row.name], opa)
                run.say(f"authz {number}/{run.rounds} {row.name}: {costs[row.name].more_us[-1]:+.1f} us")
            if wanted in others.name:
                _beside(run, agent, proxy, url, keys, others)
                run.say(f"authz {number}/{run.rounds} others: p99 {others.p99_ratio[-1]:.2f} x")
        return Result(list(costs.values()), others, {count: _alone_us(count) for count in (1, 100, 1000)})


def _alone_us(count: int) -> float:
    """What the last of so many rules takes: the least of some tries, as nothing else can make it less."""
    decide = compile_authz(convert(rules(count), Authz)).decide
    view = HeadView(
        parse_request(next(traffic.requests()).removesuffix(b"\r\n\r\n")), "shop.production", "127.0.0.1", False
    )
    assert decide(view) is None
    return min(timeit.repeat(lambda: decide(view), number=ALONE, repeat=7)) / ALONE * 1e6


def _once(run: Run, agent: Agent, proxy: Proxy, url: str, keys: Keys, row: Row, cost: Cost, opa: Opa) -> None:
    off = measure_once(run, proxy, run.seconds(6, 2))
    swap(agent, url, {keys.policy(kind, traffic.HOST): mesh.as_json(found) for kind, found in row.documents.items()})
    if row.requests in ("usual", "new path"):  # Rego is compiled by then, and its evaluator there
        wait_until("it passes", lambda: answers(agent.outbound), agent.program)
    saturate(proxy.port, WARM_S, run.workdir, run.load_cpus)
    before = opa.cpu_s()
    on = measure_once(run, proxy, run.seconds(6, 2))
    if row.opa:
        cost.opa_us.append((opa.cpu_s() - before) / on.requests * 1e6)
    swap(agent, url, {keys.policy(kind, traffic.HOST): None for kind in row.documents})
    cost.off_us.append(off.cpu_us)
    cost.on_us.append(on.cpu_us)
    cost.off_p99_us.append(off.p99_us)
    cost.on_p99_us.append(on.p99_us)


def _beside(run: Run, agent: Agent, proxy: Proxy, url: str, keys: Keys, cost: Cost) -> None:
    """The same requests to a service that is judged by nobody; off: nobody asks about the other one."""
    off = saturate(proxy.port, run.seconds(6, 2), run.workdir, run.load_cpus)
    bomb = {"rego": {"modules": {"bomb.rego": BOMB}, "reads": ["path"]}}
    swap(agent, url, {keys.policy("authz", traffic.STREAM_HOST): mesh.as_json(bomb)})
    over = threading.Event()
    thread = threading.Thread(target=_ask_for_ever, args=(agent.outbound, over))
    thread.start()
    try:
        on = saturate(proxy.port, run.seconds(6, 2), run.workdir, run.load_cpus)
    finally:
        over.set()
        thread.join()
    swap(agent, url, {keys.policy("authz", traffic.STREAM_HOST): None})
    cost.off_us.append(1e6 / off.rate)
    cost.on_us.append(1e6 / on.rate)
    cost.off_p99_us.append(off.p99_us)
    cost.on_p99_us.append(on.p99_us)


def _ask_for_ever(port: int, over: threading.Event) -> None:
    number = 0
    while not over.wait(1 / HOSTILE_PER_S):
        number += 1
        answers(port, traffic.STREAM_HOST, f"/{number}")


# Requests.


def _load(run: Run, name: str) -> Run:
    """The run with requests of its own; each stands in a folder of its own, for wrk."""
    if name == "usual":
        return run
    folder = run.workdir / f"authz-{name.replace(' ', '-')}"
    folder.mkdir()
    usual = traffic.wrk_script()
    fixed = "".join(f"{field}: {value}\r\n" for field, value in traffic.HEADERS.items())
    done = usual[usual.index("done = function") :]
    if name == "new path":
        script = f"local rest = {json.dumps(fixed + chr(13) + chr(10))}\n{NEW_PATHS}\n{done}"
    else:
        script = _with_tokens(folder, fixed, TOKENS if name == "new token" else 1) + done
    (folder / "requests.lua").write_text(script)
    return msgspec.structs.replace(run, workdir=folder)


def _with_tokens(folder: Path, fixed: str, count: int) -> str:
    """Requests with that many tokens, one after the other."""
    from joserfc import jwt
    from joserfc.jwk import OKPKey

    key = OKPKey.import_key(PRIVATE)
    until = int(time.time()) + 24 * 3600
    claims: Callable[[int], dict[str, Any]] = lambda n: {  # noqa: E731
        "iss": "https://login",
        "aud": "pets",
        "sub": f"somebody-{n}",
        "exp": until,
    }
    tokens = [jwt.encode({"alg": "EdDSA"}, claims(n), key, algorithms=["EdDSA"]) for n in range(count)]
    (folder / "tokens").write_text("\n".join(tokens))
    lines = [line for line in fixed.split("\r\n") if line and not line.startswith("Authorization")]
    rest = json.dumps("\r\n".join([*lines, "", ""]))
    return f"""local tokens = {{}}
for line in io.lines({json.dumps(str(folder / "tokens"))}) do tokens[#tokens + 1] = line end
local at = 0
request = function()
  at = at % #tokens + 1
  return "GET /pets/7 HTTP/1.1\\r\\nAuthorization: Bearer " .. tokens[at] .. "\\r\\n" .. {rest}
end
"""


# An OPA.


class Opa(msgspec.Struct, frozen=True):
    """One, or none."""

    url: str = ""
    pid: int = 0

    def cpu_s(self) -> float:
        """What it has taken so far."""
        if not self.pid:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_opa(run: Run) -> Iterator[Opa]:
    """One with the policy that Rego has here, on the cores of the load."""
    program = os.environ.get("SHOAL_OPA", "")
    if not program:
        run.say("authz: no OPA, whose rows are left out; SHOAL_OPA names the program (scripts/interop builds it)")
        yield Opa()
        return
    policy = run.workdir / "pets.rego"
    policy.write_text(REGO)
    port = free_port()
    pinned = ["taskset", "-c", ",".join(map(str, run.load_cpus))] if run.load_cpus else []
    command = [*pinned, program, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error", str(policy)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not _healthy(port):
                if process.poll() is not None:
                    raise OSError(f"{program} ended with {process.returncode}")
                time.sleep(0.05)
            yield Opa(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def goals(result: Result) -> list[Goal]:
    """The last of a thousand rules in two microseconds; others' p99 hardly moves."""
    found = [Goal("The last of 1,000 rules, the decision alone", result.alone_us[1000], 2.0, "µs")]
    if result.others.p99_ratio:
        found.append(Goal("p99 of others' requests beside hostile Rego", median(result.others.p99_ratio), 1.5, "x"))
    return found


def show(result: Result, console: Console) -> None:
    """The table."""
    table = Table(title="CPU per request that is judged or recorded, µs (medians of the rounds)")
    for heading in ("", "off", "on", "more", "min..max", "p99 off", "p99 on", "OPA's own"):
        table.add_column(heading, justify="left" if not heading else "right")
    for cost in result.costs:
        more = cost.more_us
        table.add_row(
            cost.name,
            f"{median(cost.off_us):.1f}",
            f"{median(cost.on_us):.1f}",
            f"{median(more):+.1f}",
            f"{min(more):+.1f}..{max(more):+.1f}",
            f"{median(cost.off_p99_us):,.0f}",
            f"{median(cost.on_p99_us):,.0f}",
            f"{median(cost.opa_us):.1f}" if cost.opa_us else "",
        )
    console.print(table)
    alone = ", ".join(f"{us:.2f} of {count:,}" for count, us in result.alone_us.items())
    console.print(f"the decision by the last rule alone, µs: {alone}")
    if result.others.p99_ratio:
        ratios = result.others.p99_ratio
        off, on = median(result.others.off_p99_us), median(result.others.on_p99_us)
        interval = f"{median(ratios):.2f} x ({min(ratios):.2f}..{max(ratios):.2f})"
        console.print(f"{result.others.name}: p99 {off:,.0f} µs without, {on:,.0f} with: {interval}")
