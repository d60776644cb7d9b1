"""The demo's scenes about looking closely: a candidate compared, load shed, and a status page that is told."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

from protection import POLICIES, SULKING, mood
from stage import port_near

if TYPE_CHECKING:
    from story import Story


def comparison(story: Story, service: str) -> None:
    """v2 gets a copy of what v1 is asked; what it answers otherwise is found among the noise."""
    tell, stage = story.tell, story.stage
    tell.scene("Is v2 right? It is asked what v1 is asked, and its answers are compared. Callers get those of v1.")
    story.put(f"{POLICIES}/route/{service}", {"active": "v1", "standby": "v2"})
    failed, start = len(story.traffic.failures()), time.monotonic()
    ignore = ["$.instance", "$.pid", "headers.x-instance"]
    compare = {"primary": "v1", "candidate": {"version": "v2"}, "ignore": ignore}
    story.put(f"{POLICIES}/shadow/{service}", {"compare": compare})
    deadline = time.monotonic() + 12
    fields: list[str] = []
    while time.monotonic() < deadline and "$.version" not in fields:
        time.sleep(1)
        fields = regressions(story, service)
    tell.command(f"shoal diff {service}")
    tell.say(f"answered otherwise, beyond what differs between two v1 as well: {', '.join(fields)}")
    only_v1 = {answer.version for answer in story.traffic.since(start + 1)} == {"v1"}
    right = set(fields) == {"$.version", "headers.x-version"}
    tell.promise(right and only_v1, "exactly what is different was found, and no caller got an answer of v2")
    tell.promise(len(story.traffic.failures()) == failed, "no request failed or waited for a copy")
    stage.etcdctl("del", f"{POLICIES}/shadow/{service}")
    stage.etcdctl("del", f"{POLICIES}/route/{service}")


def regressions(story: Story, service: str) -> list[str]:
    """Fields that `shoal diff` takes for regressions."""
    told = story.stage.shoal_any("--output", "json", "diff", service)
    return [row["field"] for row in json.loads(told)["fields"] if row["regression"]] if told else []


def shedding(story: Story) -> None:
    """Eight slow calls at once to a service that may have two: the rest gets an answer at once."""
    tell, stage = story.tell, story.stage
    tell.scene("Too many slow calls at once: two are served, and the others hear so at once, with a page of ours.")
    for kind in ("breaker", "ratelimit"):
        stage.etcdctl("del", f"{POLICIES}/{kind}/{SULKING}")
    toy = stage.shoal_json("instances", SULKING)[0]
    mood(toy["address"], toy["port"], "well")
    page = {"respond": {"status": 200, "body": "very busy, back soon"}}
    story.put(f"{POLICIES}/shed/{SULKING}", {"concurrency": 2, "instead": [page]})
    alpha = stage.hosts[0]

    def call(_: int) -> tuple[bytes, float]:
        began = time.monotonic()
        connection = HTTPConnection(alpha.address, alpha.outbound, timeout=5)
        connection.request("GET", "/slow?s=0.5", headers={"Host": SULKING})
        body = connection.getresponse().read()
        connection.close()
        return body, time.monotonic() - began

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(call, range(8)))
    turned_away = [took_s for body, took_s in answers if body == b"very busy, back soon"]
    slowest_ms = max(turned_away, default=9) * 1000
    tell.promise(
        1 <= 8 - len(turned_away) <= 2 and slowest_ms < 400,
        f"{8 - len(turned_away)} were served; {len(turned_away)} got the page, the last after {slowest_ms:.0f} ms",
    )


def storing(story: Story) -> None:
    """Orders while the service is full and the broker away: each is kept, and served later."""
    tell, stage = story.tell, story.stage
    tell.scene("Orders come while the service is full, and the broker is away too. They are stored, and served later.")
    alpha = stage.hosts[0]
    port = port_near("127.0.0.1", 8080)
    url = f"ws://127.0.0.1:{port}/ws/v2/producer/persistent/public/default/toys"
    story.put(f"{POLICIES}/shed/{SULKING}", {"concurrency": 1, "instead": [{"topic": {"url": url}}]})

    def call(method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = HTTPConnection(alpha.address, alpha.outbound, timeout=10)
        connection.request(method, target, body, {"Host": SULKING})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, answer

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call, "GET", "/slow?s=1")
        time.sleep(0.2)
        answers = [call("POST", "/orders", b"order %d" % number) for number in range(20)]
    accepted = [json.loads(answer)["id"] for status, answer in answers if status == 202]
    tell.say(f"one answer: {answers[0][1].decode().strip()}")
    tell.promise(len(accepted) == 20, "20 orders, 20 answers 202, with no broker at all: they are on the host's disk")
    said = [line for line in stage.shoal("status").splitlines() if line.startswith("topic")]
    tell.say(said[0] if said else "shoal status says nothing of it")
    stage.start_broker(port)
    deadline = time.monotonic() + 15
    waiting = 20
    while waiting and time.monotonic() < deadline:
        time.sleep(0.2)
        (topic,) = stage.shoal_state()["topics"]
        waiting = topic["waiting"]
    tell.say(f"the broker is there: {20 - waiting} are in the topic")
    tell.command(f"shoal replay {SULKING} --rate 100")
    told = stage.shoal("replay", SULKING, "--rate", "100", "--proxy", f"http://{alpha.address}:{alpha.outbound}")
    served = {line.split()[1] for line in told.splitlines() if line.endswith(" 200")}
    tell.promise(served == set(accepted), f"{len(served)} of them were served, each by its id")
    stage.etcdctl("del", f"{POLICIES}/shed/{SULKING}")


def status_page(story: Story, service: str) -> None:
    """An instance fails its check, and a receiver elsewhere is told, once."""
    tell, stage = story.tell, story.stage
    tell.scene("An instance fails its health check, and a status page has to know. Two agents saw it; one tells.")
    received: list[tuple[float, str, str]] = []

    class Page(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append((time.monotonic(), event["type"], event["subject"]))
            self.send_response(204)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook = {"target": {"url": f"http://127.0.0.1:{server.server_address[1]}/"}}
    story.put(f"{POLICIES}/webhook/{service}", {"hooks": {"page": hook}})
    sick = stage.shoal_json("instances", service)[0]
    for word, wanted in (("unhealthy", "instance.unhealthy"), ("healthy", "instance.healthy")):
        mood(sick["address"], sick["port"], word)
        deadline = time.monotonic() + 15
        while not any(kind.endswith(wanted) for _, kind, _ in received) and time.monotonic() < deadline:
            time.sleep(0.05)
    told = [f"{kind.removeprefix('io.shoal.')} {subject}" for _, kind, subject in received]
    tell.say(f"the page was told: {'; '.join(told)}")
    subject = f"instances/{service}/{sick['id']}"
    tell.promise(told == [f"instance.unhealthy {subject}", f"instance.healthy {subject}"], "both, in order, once each")
    stage.etcdctl("del", f"{POLICIES}/webhook/{service}")
    server.shutdown()
    server.server_close()
