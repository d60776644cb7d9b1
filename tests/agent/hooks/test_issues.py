"""Issues and tickets, against doubles that follow the documented APIs of GitHub and Jira."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.bodies import steps
from agent.hooks.issues import mark
from agent.hooks.receivers import Receivers
from agent.hooks.steps import Action, Done, Failed, Request, Response
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Event, sample
from policies.language.secret import Reference

NOW = 1_767_322_800
SECRETS = {Reference(file="token"): "t0ken\n"}
RECEIVERS = Receivers({"token": ["api.github.com", "acme.atlassian.net", "jira.corp"]})
GITHUB = msgspec.convert(
    {
        "format": "github-issue",
        "github": {"repo": "acme/ops", "labels": ["shoal", "prod"]},
        "secret": {"file": "token"},
    },
    Hook,
)
JIRA = msgspec.convert(
    {
        "format": "jira",
        "jira": {"api": "https://acme.atlassian.net", "project": "OPS", "user": "bot@acme.example"},
        "secret": {"file": "token"},
    },
    Hook,
)


def event(n: int = 1, name: str = "instance.unhealthy", instance: str = "web-1", reason: str = "status 503") -> Event:
    made = sample(name)
    subject = made.subject.replace("web-1-8080", instance)
    data: dict[str, Any] = {"after": name, "reason": reason, "agent": "web-1"}
    return msgspec.structs.replace(made, id=f"c-{n}-0", subject=subject, key=f"m/{subject}", data=data)


def answer(status: int, body: Any = None) -> Response:
    return Response(status, {"content-type": "application/json"}, b"" if body is None else json.dumps(body).encode())


class Double(Protocol):
    def handle(self, request: Request) -> Response: ...
    def open(self) -> int: ...
    def all(self) -> list[dict[str, Any]]: ...


class GitHubDouble:
    """Lists with state, labels and pages; creates, comments, updates. Everything lower-cased that GitHub leaves so."""

    def __init__(self, crowd: int = 0) -> None:
        self.issues: list[dict[str, Any]] = []
        self.comments: dict[int, list[str]] = {}
        for _ in range(crowd):
            self.create({"title": "other", "body": "", "labels": ["shoal"]})

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        issue = {**body, "number": len(self.issues) + 1, "state": "open"}
        self.issues.append(issue)
        self.comments[issue["number"]] = []
        return issue

    def open(self) -> int:
        return sum(issue["state"] == "open" for issue in self.issues if issue["title"] != "other")

    def all(self) -> list[dict[str, Any]]:
        return [{**issue, "said": self.comments[issue["number"]]} for issue in self.issues if issue["title"] != "other"]

    def handle(self, request: Request) -> Response:
        url = urlsplit(request.url)
        assert url.netloc == "api.github.com" and url.path.startswith("/repos/acme/ops/issues")
        assert request.headers["authorization"] == "Bearer t0ken" and request.headers["user-agent"]
        assert request.headers["accept"] == "application/vnd.github+json"
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match [request.method, *url.path.removeprefix("/repos/acme/ops/issues").strip("/").split("/")]:
            case ["GET", ""]:
                assert set(query) == {"state", "labels", "per_page", "page"}
                found = [i for i in self.issues if i["state"] == query["state"] and query["labels"] in i["labels"]]
                size, page = int(query["per_page"]), int(query["page"])
                return answer(200, found[::-1][size * (page - 1) : size * page])
            case ["POST", ""]:
                body = json.loads(request.body)
                assert set(body) == {"title", "body", "labels"} and len(body["title"]) <= 256
                return answer(201, self.create(body))
            case ["GET", number, "comments"]:
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", query["since"])
                return answer(200, [{"body": text} for text in self.comments[int(number)]])
            case ["POST", number, "comments"]:
                self.comments[int(number)].append(json.loads(request.body)["body"])
                return answer(201, {"id": 1})
            case ["PATCH", number]:
                self.issues[int(number) - 1] |= json.loads(request.body)
                return answer(200, self.issues[int(number) - 1])
        return answer(404, {"message": "Not Found"})


class JiraDouble:
    """Cloud searches at /search/jql and answers 410 at /search; Data Center has only /search."""

    def __init__(self, cloud: bool = True) -> None:
        self.cloud = cloud
        self.issues: list[dict[str, Any]] = []

    def open(self) -> int:
        return sum(issue["status"] != "Done" for issue in self.issues)

    def all(self) -> list[dict[str, Any]]:
        return self.issues

    def handle(self, request: Request) -> Response:
        url = urlsplit(request.url)
        assert url.netloc == "acme.atlassian.net"
        basic = base64.b64encode(b"bot@acme.example:t0ken").decode()
        assert request.headers["authorization"] == (f"Basic {basic}" if self.cloud else "Bearer t0ken")
        body = json.loads(request.body) if request.body else {}
        match [request.method, *url.path.removeprefix("/rest/api/2/").split("/")]:
            case ["GET", "search", "jql"] if self.cloud:
                return self.search(parse_qs(url.query))
            case ["GET", "search"]:
                return answer(410, {"errorMessages": ["removed"]}) if self.cloud else self.search(parse_qs(url.query))
            case ["POST", "issue"]:
                fields = body["fields"]
                assert fields["project"] == {"key": "OPS"} and fields["issuetype"] == {"name": "Task"}
                assert all(" " not in label for label in fields["labels"])
                issue = {**fields, "key": f"OPS-{len(self.issues) + 1}", "status": "To Do", "said": []}
                self.issues.append(issue)
                return answer(201, {"id": "1", "key": issue["key"]})
            case ["POST", "issue", key, "comment"]:
                self.find(key)["said"].append(body["body"])
                return answer(201, {"id": "1"})
            case ["GET", "issue", key, "transitions"]:
                self.find(key)
                names = [("11", "Start", "In Progress"), ("31", "Resolve", "Done")]
                return answer(200, {"transitions": [{"id": i, "name": n, "to": {"name": to}} for i, n, to in names]})
            case ["POST", "issue", key, "transitions"]:
                assert body == {"transition": {"id": "31"}}
                self.find(key)["status"] = "Done"
                return answer(204)
        return answer(404, {"errorMessages": ["no such thing"]})

    def find(self, key: str) -> dict[str, Any]:
        return next(issue for issue in self.issues if issue["key"] == key)

    def search(self, query: dict[str, list[str]]) -> Response:
        jql = re.fullmatch(r'project = "OPS" AND labels = "(\S+)" AND statusCategory != Done', query["jql"][0])
        assert jql is not None and query["fields"] == ["description,comment"]
        found = [
            {
                "key": issue["key"],
                "fields": {
                    "description": issue["description"],
                    "comment": {"comments": [{"body": text} for text in issue["said"]]},
                },
            }
            for issue in self.issues
            if issue["status"] != "Done" and jql[1] in issue["labels"]
        ]
        return answer(200, {"issues": found})


def deliver(one: Event, hook: Hook, double: Double, requests: int = 99) -> Action:
    """To the end, or as far as so many requests, the last of which was carried out and its answer lost."""
    delivery = steps(one, hook, SECRETS, NOW, RECEIVERS)
    action = delivery.next()
    while isinstance(action, Request) and requests:
        requests -= 1
        response = double.handle(action)
        if not requests:
            break
        action = delivery.next(response)
    return action


BOTH = pytest.mark.parametrize(("hook", "double"), [(GITHUB, GitHubDouble), (JIRA, JiraDouble)], ids=["github", "jira"])
MakeDouble = Callable[[], Double]


@BOTH
def test_a_condition_is_one_issue_from_its_beginning_to_its_end(hook: Hook, double: MakeDouble) -> None:
    """Opened, commented on, closed; the next time another one."""
    there = double()
    opened = deliver(event(1), hook, there)
    assert isinstance(opened, Done) and opened.what.startswith("opened "), opened
    assert there.open() == 1 and "status 503" in str(there.all()[0])
    assert "commented" in str(deliver(event(2, reason="worse"), hook, there))
    assert there.open() == 1 and "worse" in there.all()[0]["said"][0]
    closed = deliver(event(3, "instance.healthy"), hook, there)
    assert isinstance(closed, Done) and closed.what.startswith("closed ")
    assert there.open() == 0 and len(there.all()[0]["said"]) == 2
    assert isinstance(deliver(event(4), hook, there), Done)
    assert there.open() == 1 and len(there.all()) == 2


@BOTH
def test_a_recovery_with_nothing_open_does_nothing(hook: Hook, double: MakeDouble) -> None:
    """Somebody closed it by hand, or it never was."""
    there = double()
    assert "open" in str(deliver(event(1, "instance.healthy"), hook, there)) and not there.all()
    assert isinstance(deliver(event(1, "instance.registered"), hook, there), Done) and not there.all()


@BOTH
def test_conditions_are_told_apart(hook: Hook, double: MakeDouble) -> None:
    """Of two instances."""
    there = double()
    deliver(event(1), hook, there)
    deliver(event(2, instance="web-2"), hook, there)
    deliver(event(3, "instance.gone", instance="web-2"), hook, there)
    assert len(there.all()) == 2 and there.open() == 1


HISTORY = st.lists(
    st.tuples(
        st.sampled_from(["instance.unhealthy", "instance.healthy", "instance.gone"]),
        st.sampled_from(["a", "b"]),
        st.lists(st.integers(1, 5), max_size=3),
    ),
    max_size=8,
)


@given(HISTORY, st.sampled_from([(GITHUB, GitHubDouble), (JIRA, JiraDouble)]))
def test_agents_that_die_anywhere_lead_to_the_same(
    history: list[tuple[str, str, list[int]]], kind: tuple[Hook, MakeDouble]
) -> None:
    """Each delivery is begun, cut off after some request, and begun again by another: nothing is done twice."""
    hook, double = kind
    smooth, rough = double(), double()
    for n, (name, instance, cuts) in enumerate(history):
        one = event(n, name, instance)
        for requests in cuts:
            deliver(one, hook, rough, requests)
        assert isinstance(deliver(one, hook, rough), Done)
        assert isinstance(deliver(one, hook, smooth), Done)
    assert rough.all() == smooth.all()


# GitHub.


def test_an_issue_is_found_among_many() -> None:
    """On a later page; up to a thousand open ones with the label."""
    there = GitHubDouble()
    deliver(event(1), GITHUB, there)
    for _ in range(250):
        there.create({"title": "other", "body": "", "labels": ["shoal"]})
    assert deliver(event(2, "instance.healthy"), GITHUB, there) == Done("closed issue 1")


def test_nobody_is_mentioned_and_no_mark_is_forged_by_what_a_program_says() -> None:
    """What it says stands in a block of code."""
    other = mark(event(instance="web-2").key)
    reason = f"@acme/everybody\n<!-- shoal {other} -->\r\n\n# title\n```\n\u2028<!-- shoal event c-9-0 -->"
    there = GitHubDouble()
    deliver(event(1, reason=reason), GITHUB, there)
    body = there.issues[0]["body"].split("\n")
    quiet = [line for line in body if line and not line.startswith("    ")]
    assert quiet == [
        f"**{event().title.replace('web-1-8080', 'web-1')}**",
        "<http://127.0.0.1:15000/>",
        f"<!-- shoal {mark(event().key)} -->",
        "<!-- shoal event c-1-0 -->",
    ]
    assert deliver(event(2, instance="web-2"), GITHUB, there) == Done("opened issue 2")
    assert deliver(event(9, "instance.healthy"), GITHUB, there) == Done("closed issue 1")


def test_pull_requests_and_other_things_are_no_issues() -> None:
    """GitHub lists both."""
    ours = f"<!-- shoal {mark(event().key)} -->"
    listed = [{"number": 5, "body": ours, "pull_request": {}}, {"number": 6, "body": None}, "x", {"body": 3}]
    delivery = steps(event(2, "instance.healthy"), GITHUB, SECRETS, NOW, RECEIVERS)
    delivery.next()
    assert delivery.next(answer(200, listed)) == Done("no issue was open")


@pytest.mark.parametrize("number", [None, "5", 0, True, "../../user", 1.5])
def test_a_number_that_is_none_does_not_get_into_an_address(number: Any) -> None:
    """The other side might be anybody."""
    delivery = steps(event(2), GITHUB, SECRETS, NOW, RECEIVERS)
    delivery.next()
    found = delivery.next(answer(200, [{"number": number, "body": f"<!-- shoal {mark(event().key)} -->"}]))
    assert found == Failed("an issue without a number", True)


# Jira.


def test_data_center_searches_the_old_way() -> None:
    """With a personal access token."""
    assert JIRA.jira is not None
    hook = msgspec.structs.replace(JIRA, jira=msgspec.structs.replace(JIRA.jira, user=""))
    there = JiraDouble(cloud=False)
    assert deliver(event(1), hook, there) == Done("opened OPS-1")
    assert deliver(event(2, "instance.healthy"), hook, there) == Done("closed OPS-1")


def test_a_transition_that_is_not_there() -> None:
    """Which there are is said; it may be mended."""
    assert JIRA.jira is not None
    hook = msgspec.structs.replace(JIRA, jira=msgspec.structs.replace(JIRA.jira, transition="Close"))
    there = JiraDouble()
    deliver(event(1), hook, there)
    assert deliver(event(2, "instance.healthy"), hook, there) == Failed(
        "OPS-1 has no transition 'Close'; there are: Start, Resolve", True
    )
    silent = msgspec.structs.replace(JIRA, jira=msgspec.structs.replace(JIRA.jira, transition=""))
    assert deliver(event(2, "instance.healthy"), silent, there) == Done("OPS-1 was open; commented on it")
    assert len(there.issues[0]["said"]) == 1


@pytest.mark.parametrize("key", [None, 5, "OPS", "OPS-1/../../user", "ops-1", "OPS-1\n"])
def test_a_key_that_is_none_does_not_get_into_an_address(key: Any) -> None:
    """The other side might be anybody."""
    delivery = steps(event(2), JIRA, SECRETS, NOW, RECEIVERS)
    delivery.next()
    assert delivery.next(answer(200, {"issues": [{"key": key}]})) == Failed("a ticket without a key", True)


# Whatever comes back.


def forms() -> Iterator[Any]:
    yield from (
        [],
        {},
        None,
        5,
        "x",
        [None],
        [[]],
        {"issues": None},
        {"issues": [{}]},
        {"issues": [None]},
        [{"body": []}],
    )
    yield from ({"transitions": 5}, {"transitions": [None, {"to": 3}]}, {"issues": [{"key": "OPS-1", "fields": 3}]})


@given(
    st.sampled_from([GITHUB, JIRA]),
    st.sampled_from(["instance.unhealthy", "instance.healthy"]),
    st.lists(
        st.tuples(st.sampled_from([200, 201, 204, 302, 403, 404, 410, 500]), st.sampled_from(list(forms()))),
        max_size=30,
    ),
)
def test_any_answers_lead_to_an_end(hook: Hook, name: str, answers: list[tuple[int, Any]]) -> None:
    """Done or Failed, and every request goes to the same host."""
    delivery = steps(event(1, name), hook, SECRETS, NOW, RECEIVERS)
    action = delivery.next()
    for status, body in answers:
        if not isinstance(action, Request):
            break
        assert urlsplit(action.url).netloc in ("api.github.com", "acme.atlassian.net")
        action = delivery.next(answer(status, body))
    assert isinstance(action, Request | Done | Failed)
    assert len(answers) < 25 or not isinstance(action, Request)
