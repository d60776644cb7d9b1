"""Issues and tickets, against doubles that follow the documented APIs of GitHub and Jira."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hooks.bodies import steps
from agent.hooks.issues import mark
from agent.hooks.receivers import Receivers
from agent.hooks.steps import Action, Done, Failed, Intend, Noted, Request, Response
from policies.kinds.webhook.document import Hook
from policies.kinds.webhook.event import Event, sample
from policies.language.secret import Reference
from registry.records import Opened
from tests.support.trackers import GitHubDouble, JiraDouble, answer

NOW = 1_767_322_800
PLACE = "https://api.github.com/repos/acme/ops/issues"
PROJECT = "https://acme.atlassian.net/projects/OPS"
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


class Double(Protocol):
    def handle(self, request: Request) -> Response: ...
    def open(self) -> int: ...
    def all(self) -> list[dict[str, Any]]: ...


def deliver(
    one: Event, hook: Hook, double: Double, requests: int = 99, before: Opened | None = None, now: int = NOW
) -> Action:
    """To the end, or as far as so many requests, the last of which was carried out and its answer lost."""
    delivery = steps(one, hook, SECRETS, now, RECEIVERS, before)
    action = delivery.next()
    while isinstance(action, Request | Intend) and requests:
        if isinstance(action, Intend):
            action = delivery.next(Noted())
            continue
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
    assert deliver(event(2, "instance.healthy"), GITHUB, there) == Done("closed issue 1", PLACE, "1")


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
    assert deliver(event(2, instance="web-2"), GITHUB, there) == Done("opened issue 2", PLACE, "2")
    assert deliver(event(9, "instance.healthy"), GITHUB, there) == Done("closed issue 1", PLACE, "1")


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
    assert deliver(event(1), hook, there) == Done("opened ticket OPS-1", PROJECT, "OPS-1")
    assert deliver(event(2, "instance.healthy"), hook, there) == Done("closed ticket OPS-1", PROJECT, "OPS-1")


def test_a_transition_that_is_not_there() -> None:
    """Which there are is said; it may be mended."""
    assert JIRA.jira is not None
    hook = msgspec.structs.replace(JIRA, jira=msgspec.structs.replace(JIRA.jira, transition="Close"))
    there = JiraDouble()
    there.transitions.pop()
    deliver(event(1), hook, there)
    assert deliver(event(2, "instance.healthy"), hook, there) == Failed(
        "ticket OPS-1 has no transition 'Close', nor one to a status that is done; there are: Start, Back", True
    )
    silent = msgspec.structs.replace(JIRA, jira=msgspec.structs.replace(JIRA.jira, transition=""))
    assert deliver(event(2, "instance.healthy"), silent, there) == Done("ticket OPS-1 was open; commented on it")
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
    assert isinstance(action, Request | Intend | Done | Failed)
    assert len(answers) < 25 or not isinstance(action, Request)


# What is remembered.

AGAIN = "2026-01-02T03:00:00Z"
"""As NOW, in text."""


def remembered(hook: Hook, id: str, state: Any = "open", asked: int = 0, at: str = AGAIN) -> Opened:
    place = PLACE if hook.github is not None else PROJECT
    return Opened(
        event="c-1-0", type="io.shoal.instance.unhealthy", state=state, at=at, place=place, id=id, asked=asked
    )


def opened(hook: Hook, there: Any, one: Event, **more: Any) -> Opened:
    """As the answer called it."""
    found = deliver(one, hook, there, **more)
    assert isinstance(found, Done) and found.id, found
    return remembered(hook, found.id)


@BOTH
def test_what_was_opened_is_closed_by_its_own_id(hook: Hook, double: MakeDouble) -> None:
    """Though no list shows it: it lags, the label was dropped or taken off, its text was edited."""
    there: Any = double()
    there.drops_labels = True
    there.lag_s = 1e9
    known = opened(hook, there, event(1))
    there.all()[0] |= {"labels": [], "body": "edited", "description": "edited"}
    assert "closed" in str(deliver(event(2, "instance.gone"), hook, there, before=known))
    assert there.open() == 0


def test_labels_that_github_dropped_are_said() -> None:
    """Whose token may not set them is not told so."""
    there = GitHubDouble()
    there.drops_labels = True
    assert "did not set its labels" in str(deliver(event(1), GITHUB, there))


@BOTH
def test_who_was_not_answered_opens_nothing_else_until_a_search_must_have_found_it(
    hook: Hook, double: MakeDouble
) -> None:
    """The POST was carried out, its answer lost, and the search lags."""
    there: Any = double()
    deliver(event(1), hook, there, requests=2)
    assert len(there.all()) == 1
    there.lag_s = 1e9
    asked = remembered(hook, "", "opening", 1)
    found = deliver(event(1), hook, there, before=asked, now=NOW + 10)
    assert (
        isinstance(found, Failed)
        and found.again
        and found.after_s
        and found.after_s > 40
        and "looked for" in str(found)
    )
    there.lag_s = 0
    assert "opened already" in str(deliver(event(1), hook, there, before=asked, now=NOW + 10))
    assert len(there.all()) == 1


@BOTH
def test_two_that_were_opened_for_one_are_both_closed(hook: Hook, double: MakeDouble) -> None:
    """It was asked for again after all, and the search was later still."""
    there: Any = double()
    there.lag_s = 1e9
    opened(hook, there, event(1))
    second = opened(hook, there, event(1), before=remembered(hook, "", "opening", 1), now=NOW + 1000)
    assert there.open() == 2
    there.lag_s = 0
    known = remembered(hook, second.id, asked=2)
    assert "closed" in str(deliver(event(2, "instance.healthy"), hook, there, before=known))
    assert there.open() == 0


@BOTH
def test_without_memory_all_that_are_found_are_closed(hook: Hook, double: MakeDouble) -> None:
    """Where etcd lost it."""
    there: Any = double()
    there.lag_s = 1e9
    opened(hook, there, event(1))
    opened(hook, there, event(1))
    there.lag_s = 0
    deliver(event(2, "instance.healthy"), hook, there)
    assert there.open() == 0 and len(there.all()) == 2


@BOTH
def test_what_somebody_closed_or_deleted_is_no_trouble(hook: Hook, double: MakeDouble) -> None:
    """The end has nothing to do; what begins anew is another one."""
    there: Any = double()
    known = opened(hook, there, event(1))
    deliver(event(2, "instance.healthy"), hook, there, before=known)
    assert "closed already" in str(deliver(event(3, "instance.gone"), hook, there, before=known))
    assert "opened" in str(deliver(event(4), hook, there, before=known)) and len(there.all()) == 2
    missing = remembered(hook, "999" if hook.github else "OPS-999")
    there.handle = lambda request, handle=there.handle: answer(404, {}) if "999" in request.url else handle(request)
    assert "not there any more" in str(deliver(event(5, "instance.healthy"), hook, there, before=missing))
    assert "opened" in str(deliver(event(6, instance="x"), hook, there, before=missing))


@BOTH
def test_within_a_time_it_is_opened_again(hook: Hook, double: MakeDouble) -> None:
    """Instead of one a flap; after that another one is opened."""
    there: Any = double()
    known = opened(hook, there, event(1))
    deliver(event(2, "instance.healthy"), hook, there, before=known)
    closed = remembered(hook, known.id, "closed")
    again = deliver(event(3), hook, there, before=closed, now=NOW + 3000)
    assert isinstance(again, Done) and again.id == known.id and there.open() == len(there.all()) == 1
    deliver(event(4, "instance.healthy"), hook, there, before=known)
    assert "is closed" in str(deliver(event(5, "instance.gone"), hook, there, before=closed))
    deliver(event(6), hook, there, before=closed, now=NOW + 3700)
    assert there.open() == 1 and len(there.all()) == 2


@BOTH
def test_another_place_is_another_matter(hook: Hook, double: MakeDouble) -> None:
    """The document names another repository or project now: its numbers are others."""
    there: Any = double()
    opened(hook, there, event(9, instance="other"))
    elsewhere = msgspec.structs.replace(remembered(hook, "1" if hook.github else "OPS-1"), place="https://x.example")
    assert "no " in str(deliver(event(2, "instance.healthy"), hook, there, before=elsewhere)) and there.open() == 1


@BOTH
def test_what_versions_before_opened_is_found(hook: Hook, double: MakeDouble) -> None:
    """By the mark that they made, without the mesh's own id."""
    there: Any = double()
    before = msgspec.structs.replace(event(1), key=f"{event().mesh}/{event().subject}")
    deliver(before, hook, there)
    deliver(msgspec.structs.replace(event(2, "instance.healthy"), key="c1-ab/default/x"), hook, there)
    assert there.open() == 0


@BOTH
def test_two_meshes_of_one_name_are_told_apart(hook: Hook, double: MakeDouble) -> None:
    """Neither closes the other's."""
    there: Any = double()
    for mesh in ("c1-aa", "c1-bb"):
        one = event(1)
        deliver(msgspec.structs.replace(one, key=f"{mesh}/{one.mesh}/{one.subject}"), hook, there)
    assert there.open() == 2
    over = event(2, "instance.healthy")
    deliver(msgspec.structs.replace(over, key=f"c1-aa/{over.mesh}/{over.subject}"), hook, there)
    assert there.open() == 1


# GitHub and Jira, as they are.


@pytest.mark.parametrize("status", ["open", "closed"])
def test_a_repository_that_was_renamed_is_followed(status: str) -> None:
    """By its number, at the same API, with GET and with POST."""
    there = GitHubDouble()
    known = opened(GITHUB, there, event(1))
    there.renamed = "acme/operations"
    if status == "open":
        assert "opened issue 2" in str(deliver(event(3, instance="b"), GITHUB, there))
    assert "closed" in str(deliver(event(2, "instance.healthy"), GITHUB, there, before=known))
    assert there.open() == (status == "open")


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/repositories/77/issues",
        "https://api.github.com.evil.example/repositories/77/issues",
        "https://api.github.com@evil.example/repositories/77/issues",
        "https://api.github.com/repositories/77x/issues",
        "https://api.github.com/repos/acme/other/issues",
        "//evil.example/repositories/77/issues",
        "/repositories/../user",
        "",
    ],
)
def test_a_redirect_elsewhere_is_not_followed(location: str) -> None:
    """Nothing of it becomes part of an address but a number."""
    delivery = steps(event(1), GITHUB, SECRETS, NOW, RECEIVERS)
    delivery.next()
    found = delivery.next(Response(301, {"location": location}, b"{}"))
    assert isinstance(found, Failed) and "redirects are not followed" in found.reason


def test_redirects_in_a_row_are_not_followed() -> None:
    """One is a rename."""
    delivery = steps(event(1), GITHUB, SECRETS, NOW, RECEIVERS)
    moved = Response(301, {"location": "https://api.github.com/repositories/77/issues"}, b"{}")
    delivery.next()
    assert isinstance(delivery.next(moved), Request)
    assert isinstance(delivery.next(moved), Failed)


def test_any_transition_to_done_will_do() -> None:
    """Workflows have names of their own."""
    there = JiraDouble()
    there.transitions = [("11", "Los", "In Progress"), ("5", "Schließen", "Closed")]
    known = opened(JIRA, there, event(1))
    assert "closed" in str(deliver(event(2, "instance.healthy"), JIRA, there, before=known)) and there.open() == 0


def test_fields_that_jira_requires() -> None:
    """What is missing is said, and where to put it; then it is sent."""
    there = JiraDouble()
    there.required = ("customfield_10010", "priority")
    found = deliver(event(1), JIRA, there)
    assert isinstance(found, Failed) and found.again
    assert "customfield_10010 is required" in found.reason and "jira.fields" in found.reason
    assert JIRA.jira is not None
    fields = {"customfield_10010": {"value": "Mesh"}, "components": [{"name": "net"}]}
    full = msgspec.structs.replace(JIRA.jira, fields=fields, priority="High", labels=("ops",), resolution="Fixed")
    hook = msgspec.structs.replace(JIRA, jira=full)
    known = opened(hook, there, event(1))
    assert there.issues[0]["components"] == [{"name": "net"}] and there.issues[0]["priority"] == {"name": "High"}
    assert there.issues[0]["labels"][0] == "ops"
    there.resolution = True
    assert "Resolution is required" in str(deliver(event(2, "instance.healthy"), JIRA, there, before=known))
    assert "closed" in str(deliver(event(2, "instance.healthy"), hook, there, before=known))
