"""What an answer means, and what a conversation never shows."""

import pytest
from rich.pretty import pretty_repr

from agent.hooks.receivers import Receivers
from agent.hooks.steps import MAX_WAIT_S, Failed, Problem, Request, Response, Secrets, Steps, decoded, problem_of
from policies.language.secret import Reference

NOW = 1_767_322_800
OWN = Receivers({"a": ["x.example"], "SHOAL_HOOK_B": ["x.example"]})


@pytest.mark.parametrize("status", [400, 405, 406, 410, 411, 413, 414, 415, 422, 501, 301, 302, 307, 308, 304])
def test_what_no_other_try_can_help(status: int) -> None:
    """The request itself, or a redirect."""
    assert problem_of(Response(status), NOW).failed.again is False


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 599, 100])
def test_what_may_be_mended(status: int) -> None:
    """A token, a permission, a limit, a server."""
    assert problem_of(Response(status), NOW).failed.again is True


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": "9" * 50}, MAX_WAIT_S),
        ({"retry-after": "Fri, 02 Jan 2026 03:01:00 GMT"}, 60),
        ({"retry-after": "Fri, 02 Jan 2025 03:01:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "²"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOW + 90)}, 90),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": str(NOW + 90)}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "x"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], after_s: float | None) -> None:
    """Seconds, a date, or GitHub's limit."""
    assert problem_of(Response(429, headers), 1_767_322_800).failed.after_s == after_s


def test_what_the_other_side_said_is_one_short_line() -> None:
    """Whatever its bytes are."""
    failed = problem_of(Response(500, {}, b"no\n\x1b[31m\xff" + b"x" * 5000), NOW).failed
    assert failed.reason.isprintable() and len(failed.reason) < 230 and failed.reason.startswith("status 500: no")


def test_a_request_does_not_show_its_secrets() -> None:
    """Neither in a log nor on a terminal."""
    request = Request("POST", "https://hooks.slack.com/services/T/B/s3cret", {"authorization": "s3cret"}, b"s3cret")
    for shown in (repr(request), str(request), f"{request}", pretty_repr(request)):
        assert "s3cret" not in shown and "<POST hooks.slack.com, 6 bytes>" in shown


@pytest.mark.parametrize(("value", "said"), [("", "no secret in the file a"), ("a\nb", "is not one line of printable")])
def test_a_secret_that_is_not_there_may_come(value: str, said: str) -> None:
    """People put it there, and then it goes on."""
    with pytest.raises(Problem, match=said) as caught:
        Secrets({Reference(file="a"): value}, OWN).find(Reference(file="a"), "https://x.example/")
    assert caught.value.failed.again
    assert (
        Secrets({Reference(env="SHOAL_HOOK_B"): " x\n"}, OWN).find(Reference(env="SHOAL_HOOK_B"), "https://x.example/")
        == "x"
    )
    with pytest.raises(Problem, match="no reference"):
        Secrets({}, OWN).find("s3cret", "https://x.example/")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff", b"[" * 100_000])
def test_an_answer_of_another_form_is_a_failure(body: bytes) -> None:
    """A proxy's page, for instance: later the API may answer."""
    with pytest.raises(Problem) as caught:
        decoded(Response(200, {}, body), dict)
    assert caught.value.failed.again


def test_an_answer_to_nothing() -> None:
    """Before anything was asked."""
    assert Steps(NOW).next(Response(200)) == Failed("an answer to nothing", True)
