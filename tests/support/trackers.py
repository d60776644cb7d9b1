"""GitHub, Jira, PagerDuty and Statuspage, as they behave over time: what they take, how far their lists lag, what they
drop without a word. Each takes a request and gives an answer; a clock is the caller's.

What they take is checked after their published descriptions (GitHub's OpenAPI, Jira's swagger, PagerDuty's Events API
v2, Statuspage's API v1): the names, types, lengths and values of what hooks send. Whatever they would not take is an
assertion; what GitHub asks of well-behaved clients is counted (`rude`).
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from agent.hooks.steps import Request, Response

TOKEN: Final = "t0ken"
HOURS: Final = 3600.0
RECORD: Final = os.environ.get("SHOAL_RECORD_REQUESTS", "")
"""A file that every request is added to; empty: none is."""


def answer(status: int, body: Any = None, **headers: str) -> Response:
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    said["content-type"] = "application/json"
    return Response(status, said, b"" if body is None else json.dumps(body).encode())


def record(request: Request) -> None:
    """For a validator of the services' own descriptions (`scripts/interop`)."""
    said = {"method": request.method, "url": request.url, "body": request.body.decode()}
    with open(RECORD, "a") as file:
        file.write(json.dumps(said) + "\n")


def still() -> float:
    return 0.0


class Double:
    """What they have in common. `now` is in seconds."""

    host = ""

    def __init__(self, now: Callable[[], float] = still) -> None:
        self.now = now
        self.requests = 0
        self.limited_until = 0.0
        self.told: dict[object, float] = {}
        """When somebody was told of a limit last; of who heard it."""
        self.rude: list[str] = []
        """Requests within a minute of having been told of a limit, and others that a service asks its clients not to
        make."""

    def handle(self, request: Request, asker: object = None) -> Response:
        """Take a request."""
        url = urlsplit(request.url)
        assert url.scheme == "https" and url.netloc == self.host, url.netloc
        assert request.headers["user-agent"] == "shoal"
        assert (request.headers.get("content-type") == "application/json") == bool(request.body)
        self.requests += 1
        if RECORD:
            record(request)
        if self.now() < self.limited_until:
            if self.now() - self.told.get(asker, float("-inf")) < 60.0:
                self.rude.append(f"{request.method} {url.path} in a limit")
            self.told[asker] = self.now()
            return self.limit()
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        body = json.loads(request.body) if request.body else None
        return self.answer(request.method, url.path, query, body, request.headers)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Response:
        raise NotImplementedError

    def limit(self) -> Response:
        return answer(429, {"message": "Too Many Requests"}, retry_after="60")

    def name_a_limit(self, for_s: float) -> None:
        """From now on."""
        self.limited_until = self.now() + for_s

    def open_titles(self) -> list[str]:
        """Of everything that is open."""
        raise NotImplementedError


class GitHubDouble(Double):
    """Lists with state, labels and pages; creates, comments, updates. Lists lag; whose token may not set labels has
    them dropped; a renamed repository is a redirect by its number."""

    host = "api.github.com"

    def __init__(self, crowd: int = 0, now: Callable[[], float] = still, lag_s: float = 0.0) -> None:
        super().__init__(now)
        self.lag_s = lag_s
        self.drops_labels = False
        self.renamed = ""
        self.repo = "acme/ops"
        self.wrote_at = float("-inf")
        self.issues: list[dict[str, Any]] = []
        for _ in range(crowd):
            self.create({"title": "other", "body": "", "labels": ["shoal"]})

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        labels = [] if self.drops_labels else list(body["labels"])
        issue = {
            **body,
            "labels": labels,
            "number": len(self.issues) + 1,
            "state": "open",
            "at": self.now(),
            "said": [],
        }
        self.issues.append(issue)
        return issue

    def open(self) -> int:
        return sum(issue["state"] == "open" for issue in self.all())

    def all(self) -> list[dict[str, Any]]:
        return [issue for issue in self.issues if issue["title"] != "other"]

    def open_titles(self) -> list[str]:
        return [issue["title"] for issue in self.all() if issue["state"] == "open"]

    def limit(self) -> Response:
        return answer(403, {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."})

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Response:
        assert headers["authorization"] == f"Bearer {TOKEN}"
        assert headers["x-github-api-version"] == "2022-11-28"
        assert headers["accept"] == "application/vnd.github+json"
        if path.startswith(f"/repos/{self.repo}/issues") and self.renamed:
            moved = path.replace(f"/repos/{self.repo}", f"https://{self.host}/repositories/77")
            return answer(301 if method == "GET" else 307, {"message": "Moved Permanently"}, location=moved)
        found = re.fullmatch(rf"/(?:repos/{re.escape(self.repo)}|repositories/77)/issues((?:/\w+)*)", path)
        if found is None:
            return answer(404, {"message": "Not Found"})
        if method != "GET":
            if self.now() - self.wrote_at < 1.0 and self.now() > 0:
                self.rude.append(f"{method} {path}: {self.now() - self.wrote_at:.2f} s after the last")
            self.wrote_at = self.now()
        match [method, *found[1].strip("/").split("/")]:
            case ["GET", ""]:
                return self.list(query)
            case ["POST", ""]:
                assert set(body) <= {"title", "body", "labels", "assignees", "milestone"} and "title" in body
                assert isinstance(body["title"], str) and len(body["title"]) <= 256 and len(body["body"]) <= 65536
                assert all(isinstance(label, str) for label in body["labels"])
                return answer(201, self.shown(self.create(body)))
            case ["GET", number]:
                return answer(200, self.shown(self.issues[int(number) - 1]))
            case ["GET", number, "comments"]:
                assert set(query) <= {"since", "per_page", "page"} and int(query["per_page"]) <= 100
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", query["since"])
                return answer(200, [{"body": text} for text in self.issues[int(number) - 1]["said"]])
            case ["POST", number, "comments"]:
                assert set(body) == {"body"} and isinstance(body["body"], str)
                self.issues[int(number) - 1]["said"].append(body["body"])
                return answer(201, {"id": 1})
            case ["PATCH", number]:
                assert set(body) <= {"state", "state_reason"} and body["state"] in ("open", "closed")
                assert body.get("state_reason") in (None, "completed", "not_planned", "reopened")
                self.issues[int(number) - 1] |= {**body, "at_state": self.now()}
                return answer(200, self.shown(self.issues[int(number) - 1]))
        return answer(404, {"message": "Not Found"})

    def list(self, query: dict[str, str]) -> Response:
        assert set(query) <= {"state", "labels", "per_page", "page"} and query["state"] == "open"
        size, page = int(query["per_page"]), int(query["page"])
        assert 1 <= size <= 100
        label = query.get("labels")
        known = [issue for issue in self.issues if issue["at"] + self.lag_s <= self.now()]
        found = [i for i in known if i["state"] == "open" and (label is None or label in i["labels"])]
        return answer(200, [self.shown(issue) for issue in found[::-1][size * (page - 1) : size * page]])

    def shown(self, issue: dict[str, Any]) -> dict[str, Any]:
        labels = [{"name": label} for label in issue["labels"]]
        return {"number": issue["number"], "state": issue["state"], "title": issue["title"], "body": issue["body"],
                "labels": labels, "url": "https://elsewhere.example/"}  # fmt: skip


class JiraDouble(Double):
    """Cloud searches at /search/jql and answers 410 at /search; Data Center has only /search. Searches lag, what is
    read by a key does not. Fields may be required, and transitions be called otherwise."""

    host = "acme.atlassian.net"
    CATEGORIES: Final = {"To Do": "new", "In Progress": "indeterminate", "Done": "done", "Closed": "done"}

    def __init__(self, cloud: bool = True, now: Callable[[], float] = still, lag_s: float = 0.0) -> None:
        super().__init__(now)
        self.cloud = cloud
        self.lag_s = lag_s
        self.issues: list[dict[str, Any]] = []
        self.required: tuple[str, ...] = ()
        self.resolution = False
        self.transitions = [("11", "Start", "In Progress"), ("21", "Back", "To Do"), ("31", "Resolve", "Done")]

    def open(self) -> int:
        return sum(self.CATEGORIES[issue["status"]] != "done" for issue in self.issues)

    def all(self) -> list[dict[str, Any]]:
        return self.issues

    def open_titles(self) -> list[str]:
        return [issue["summary"] for issue in self.issues if self.CATEGORIES[issue["status"]] != "done"]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Response:
        basic = base64.b64encode(f"bot@acme.example:{TOKEN}".encode()).decode()
        assert headers["authorization"] == (f"Basic {basic}" if self.cloud else f"Bearer {TOKEN}")
        match [method, *path.removeprefix("/rest/api/2/").split("/")]:
            case ["GET", "search", "jql"] if self.cloud:
                return self.search(query)
            case ["GET", "search"]:
                return answer(410, {"errorMessages": ["removed"]}) if self.cloud else self.search(query)
            case ["POST", "issue"]:
                return self.create(body)
            case ["GET", "issue", key]:
                assert query == {"fields": "status,description"}
                return answer(200, self.shown(self.find(key)))
            case ["GET", "issue", key, "comment"]:
                assert query == {"orderBy": "-created", "maxResults": "50"}
                said = [{"id": "1", "body": text} for text in self.find(key)["said"][::-1][:50]]
                return answer(200, {"comments": said, "startAt": 0, "maxResults": 50, "total": len(said)})
            case ["POST", "issue", key, "comment"]:
                assert set(body) == {"body"} and isinstance(body["body"], str)
                self.find(key)["said"].append(body["body"])
                return answer(201, {"id": "1"})
            case ["GET", "issue", key, "transitions"]:
                self.find(key)
                listed = [{"id": i, "name": n, "to": self.status(to)} for i, n, to in self.transitions]
                return answer(200, {"transitions": listed})
            case ["POST", "issue", key, "transitions"]:
                return self.move(key, body)
        return answer(404, {"errorMessages": ["no such thing"]})

    def create(self, body: Any) -> Response:
        assert set(body) == {"fields"}
        fields = body["fields"]
        assert fields["project"] == {"key": "OPS"} and set(fields["issuetype"]) == {"name"}
        assert len(fields["summary"]) <= 255 and "\n" not in fields["summary"]
        assert isinstance(fields["description"], str) and len(fields["description"]) <= 32767
        assert all(re.fullmatch(r"\S{1,255}", label) for label in fields["labels"])
        missing = {name: f"{name} is required." for name in self.required if name not in fields}
        if missing:
            return answer(400, {"errorMessages": [], "errors": missing})
        issue = {**fields, "key": f"OPS-{len(self.issues) + 1}", "status": "To Do", "said": [], "at": self.now()}
        issue["history"] = [(self.now(), "To Do")]
        self.issues.append(issue)
        return answer(201, {"id": "1", "key": issue["key"], "self": "https://elsewhere.example/"})

    def move(self, key: str, body: Any) -> Response:
        assert set(body) <= {"transition", "fields"} and set(body["transition"]) == {"id"}
        issue = self.find(key)
        to = {id: to for id, _, to in self.transitions}[body["transition"]["id"]]
        if self.resolution and self.CATEGORIES[to] == "done" and "resolution" not in body.get("fields", {}):
            return answer(400, {"errorMessages": [], "errors": {"resolution": "Resolution is required."}})
        issue["status"] = to
        issue["history"].append((self.now(), to))
        return answer(204)

    def status(self, name: str) -> dict[str, Any]:
        return {"name": name, "statusCategory": {"key": self.CATEGORIES[name]}}

    def find(self, key: str) -> dict[str, Any]:
        return next(issue for issue in self.issues if issue["key"] == key)

    def shown(self, issue: dict[str, Any]) -> dict[str, Any]:
        fields = {"status": self.status(issue["status"]), "description": issue["description"]}
        return {"key": issue["key"], "fields": fields}

    def search(self, query: dict[str, str]) -> Response:
        jql = re.fullmatch(r'project = "OPS" AND labels in \(([^)]*)\) AND statusCategory != Done', query["jql"])
        assert jql is not None and query["fields"] == "status"
        labels = {label.strip().strip('"') for label in jql[1].split(",")}
        indexed = self.now() - self.lag_s
        found = []
        for issue in self.issues:
            then = [status for at, status in issue["history"] if at <= indexed]
            if then and self.CATEGORIES[then[-1]] != "done" and labels.intersection(issue["labels"]):
                found.append({"key": issue["key"], "fields": {"status": self.status(then[-1])}})
        return answer(200, {"issues": found})


class PagerDutyDouble(Double):
    """Events API v2: what is triggered again while it is open is the same alert."""

    host = "events.pagerduty.com"

    def __init__(self, now: Callable[[], float] = still) -> None:
        super().__init__(now)
        self.alerts: dict[str, dict[str, Any]] = {}

    def open_titles(self) -> list[str]:
        return [alert["summary"] for alert in self.alerts.values() if alert["open"]]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Response:
        assert (method, path) == ("POST", "/v2/enqueue")
        known = {"routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links", "images"}
        assert set(body) <= known and body["routing_key"] == TOKEN
        assert isinstance(body["dedup_key"], str) and 1 <= len(body["dedup_key"]) <= 255
        assert body["event_action"] in ("trigger", "acknowledge", "resolve")
        alert = self.alerts.setdefault(body["dedup_key"], {"open": False, "summary": ""})
        if body["event_action"] == "trigger":
            payload = body["payload"]
            fields = {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"}
            assert set(payload) <= fields and {"summary", "source", "severity"} <= set(payload)
            assert len(payload["summary"]) <= 1024 and payload["severity"] in ("critical", "error", "warning", "info")
            alert |= {"open": True, "summary": payload["summary"]}
        else:
            alert["open"] = False
        said = {"status": "success", "message": "Event processed", "dedup_key": body["dedup_key"]}
        return answer(202, said)


class StatuspageDouble(Double):
    """Incidents, and the one component that there is."""

    host = "api.statuspage.io"
    STATUSES: Final = ("operational", "under_maintenance", "degraded_performance", "partial_outage", "major_outage")

    def __init__(self, now: Callable[[], float] = still, lag_s: float = 0.0) -> None:
        super().__init__(now)
        self.lag_s = lag_s
        self.component = "operational"
        self.incidents: list[dict[str, Any]] = []

    def open_titles(self) -> list[str]:
        return [one["name"] for one in self.incidents if one["status"] != "resolved"]

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: dict[str, str]) -> Response:
        assert headers["authorization"] == f"OAuth {TOKEN}" and path.startswith("/v1/pages/p/")
        match [method, *path.removeprefix("/v1/pages/p/").split("/")]:
            case ["PATCH", "components", "c"]:
                assert set(body) == {"component"} and set(body["component"]) == {"status"}
                self.set(body["component"]["status"])
                return answer(200, {"id": "c", "status": self.component})
            case ["GET", "incidents", "unresolved"]:
                known = [one for one in self.incidents if one["at"] <= self.now() - self.lag_s]
                return answer(200, [one for one in known if one["status"] != "resolved"])
            case ["GET", "incidents", id]:
                found = next((one for one in self.incidents if one["id"] == id), None)
                return answer(200, found) if found is not None else answer(404, {"error": "Not found"})
            case ["POST", "incidents"]:
                incident = self.checked(body)
                assert len(incident["name"]) <= 255 and incident["metadata"]["shoal"]["mark"]
                made = {**incident, "id": f"i{len(self.incidents)}", "at": self.now()}
                self.incidents.append(made)
                return answer(201, made)
            case ["PATCH", "incidents", id]:
                incident = self.checked(body)
                found = next(one for one in self.incidents if one["id"] == id)
                found |= incident
                return answer(200, found)
        return answer(404, {"error": "Not found"})

    def checked(self, body: Any) -> dict[str, Any]:
        incident: dict[str, Any] = body["incident"]
        assert set(incident) <= {"name", "status", "body", "metadata", "components", "component_ids"}
        assert incident["status"] in ("investigating", "identified", "monitoring", "resolved")
        assert incident["component_ids"] == ["c"] and set(incident["components"]) == {"c"}
        self.set(incident["components"]["c"])
        return incident

    def set(self, status: str) -> None:
        assert status in self.STATUSES
        self.component = status
