"""Rego in a process of its own: what it answers, and what becomes of it when documents are hostile."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from agent.proxy.engine.reactor import Reactor
from agent.proxy.judges.evaluator import MOST_LOADED, Evaluator
from agent.proxy.judges.judges import Judges
from policies.claim import said
from policies.kinds.authz.judge import Answer, Asked, Judge
from policies.kinds.authz.outside import Rego
from policies.request import Request

BOMBS = {
    "recursion over data": "allow if { count([1 | walk(data.deep, _); numbers.range(1, 300000)[_]]) > 0 }",
    "a product": "allow if { x := [1 | numbers.range(1, 3000)[_]; numbers.range(1, 3000)[_]]; count(x) > 0 }",
    "a range": "allow if { count(numbers.range(1, 100000000)) > 0 }",
    "a pattern": f'allow if {{ regex.match(`^(a+)+$`, concat("", ["{"a" * 40}", input.path])) }}',
    "a text": 'allow if { x := concat("", ["x" | numbers.range(1, 99999)[_]]); y := replace(x, "x", x); count(y) > 0 }',
}


def judge(*rules: str, **more: Any) -> Judge:
    source = "\n".join(["package shoal", *rules])
    rego = msgspec.convert({"modules": {"x.rego": source}, "timeout": "10s", **more}, Rego)
    return Judge("lamps.production", rego)


class Hears:
    """One who waits."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: Answer | None = None

    def on_answer(self, judge: Judge, asked: Asked | None, answer: Answer | None) -> None:
        self.answer = answer
        self.event.set()


class Asking:
    """A worker's judges, with a real evaluator."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.judges = Judges(self.reactor)
        self.evaluator = Evaluator(self.judges)

    async def asks(self, judge: Judge, request: Request | None = None) -> Answer:
        request = request or Request("GET", "/lamps/7", caller="shop.production")
        with trio.fail_after(120):
            while True:
                hears = Hears()
                asked = judge.asked(request, "lamps.production")
                answer = self.judges.ask(judge, asked, hears.on_answer)
                if answer is None:
                    await hears.event.wait()
                    answer = hears.answer
                if answer is not None:
                    return answer

    async def all(self, judges: Sequence[Judge]) -> list[Answer]:
        found: dict[int, Answer] = {}

        async def one(n: int, judge: Judge) -> None:
            found[n] = await self.asks(judge)

        async with trio.open_nursery() as nursery:
            for n, each in enumerate(judges):
                nursery.start_soon(one, n, each)
        return [found[n] for n in range(len(judges))]


@asynccontextmanager
async def asking() -> AsyncIterator[Asking]:
    made = Asking()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.reactor.run)
        nursery.start_soon(made.reactor.wheel.run)
        nursery.start_soon(made.evaluator.run)
        yield made
        nursery.cancel_scope.cancel()
    made.reactor.close()


async def test_it_answers() -> None:
    """Yes, no, and why; what it reads is learnt from what is compiled."""
    async with asking() as made:
        yes = judge(
            'allow if { input.method == "GET"; input.source.service == data.shop }', data={"shop": "shop.production"}
        )
        answer = await made.asks(yes)
        assert answer.ruling.allows and not answer.failed
        assert yes.inputs is not None and [".".join(each.steps) for each in yes.inputs.reads] == [
            "method",
            "source.service",
        ]
        for rules, allows, failed, said in (
            (['allow if { input.method == "PUT" }'], False, False, "data.shoal.allow is undefined"),
            (["default allow := false"], False, False, "data.shoal.allow is false"),
            (['allow := "yes"'], False, True, "data.shoal.allow is neither true nor false"),
            (["allow := 1 if true", "allow := 2 if true"], False, True, "cannot be evaluated"),
        ):
            answer = await made.asks(judge(*rules))
            assert (answer.ruling.allows, answer.failed) == (allows, failed)
            assert said in answer.ruling.reason


@pytest.mark.parametrize("text", ['a"b', "a\\u0041", "a\nb", "\x7f"])
async def test_what_cannot_be_told_is_not(text: str) -> None:
    """The library would take it for another text."""
    async with asking() as made:
        answer = await made.asks(judge('allow if { input.headers["x-a"] }'), Request("GET", "/", {"x-a": text}))
        assert answer.failed and not answer.ruling.allows
        assert "input.headers.x-a has a quote" in answer.ruling.reason


async def test_lists_in_claims_are_lists() -> None:
    """As they stand in the token."""
    async with asking() as made:
        groups = judge('allow if { "gold" in input.claims.groups; input.claims.level > 6 }')
        claims = {"groups": said(["silver", "gold"]), "level": said(7)}
        assert (await made.asks(groups, Request("GET", "/", claims=claims))).ruling.allows
        assert not (await made.asks(groups, Request("GET", "/", claims={**claims, "groups": "gold"}))).ruling.allows
        written = {**claims, "groups": '["gold"]'}
        assert not (await made.asks(groups, Request("GET", "/", claims=written))).ruling.allows


@pytest.mark.parametrize("name", list(BOMBS))
async def test_a_bomb_costs_its_own_document(name: str) -> None:
    """It is not answered; others are, before, behind and afterwards; and it is not asked again at once."""
    async with asking() as made:
        bomb = judge(BOMBS[name], data={"deep": [[[[[[1]]]]]]}, reads=["path"])
        others = [judge(f'allow if {{ input.path == "/lamps/7"; {n} == {n} }}') for n in range(6)]
        answers = await made.all([*others[:3], bomb, *others[3:]])
        assert [answer.ruling.allows for answer in answers] == [True, True, True, False, True, True, True]
        assert answers[3].failed and "it took more than it may" in answers[3].ruling.reason
        again = await made.asks(bomb, Request("GET", "/other"))
        assert again.failed and "asked again in" in again.ruling.reason
        assert not (await made.asks(others[0], Request("GET", "/lamps/8"))).failed
        assert made.judges.started >= 2


async def test_one_that_is_killed_is_replaced() -> None:
    """Nobody is to blame for that."""
    async with asking() as made:
        one = judge('allow if { startswith(input.path, "/") }')
        assert (await made.asks(one)).ruling.allows
        assert made.evaluator._process is not None
        os.kill(made.evaluator._process.pid, signal.SIGKILL)
        for n in range(3):
            assert (await made.asks(one, Request("GET", f"/{n}"))).ruling.allows
        assert made.judges.started == 2


async def test_one_that_stands_still_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had his turn is to blame."""
    monkeypatch.setattr("agent.proxy.judges.evaluator.STALLED_S", 0.2)
    async with asking() as made:
        one = judge('allow if { startswith(input.path, "/") }')
        assert (await made.asks(one)).ruling.allows
        assert made.evaluator._process is not None
        os.kill(made.evaluator._process.pid, signal.SIGSTOP)
        await made.asks(one, Request("GET", "/2"))
        other = judge('allow if { startswith(input.path, "/lamps") }')
        assert (await made.asks(other)).ruling.allows


async def test_what_is_loaded_is_bounded() -> None:
    """What was asked least recently is loaded again when it is asked."""
    async with asking() as made:
        judges = [judge(f"allow if {{ input.path; {n} == {n} }}") for n in range(MOST_LOADED + 3)]
        assert all(answer.ruling.allows for answer in await made.all(judges))
        assert len(made.evaluator._programs) <= MOST_LOADED
        for each in judges[:5]:
            assert (await made.asks(each, Request("GET", "/other"))).ruling.allows


async def test_what_does_not_compile_denies() -> None:
    """With the place, to who operates."""
    async with asking() as made:
        answer = await made.asks(judge("allow if { foo(1) }"))
        assert answer.failed and '$.rego.modules["x.rego"]:2:12: foo() is defined nowhere' in answer.ruling.reason


async def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is allowed."""
    monkeypatch.setattr("agent.rego.proving.find_spec", lambda name: None)
    async with asking() as made:
        answer = await made.asks(judge("allow if true"))
        assert answer.failed and not answer.ruling.allows and "pip install 'shoal-mesh[rego]'" in answer.ruling.reason


async def test_time_is_not_remembered_for_long() -> None:
    """What is answered by the clock counts for seconds; all else until the document changes."""
    async with asking() as made:
        timed, untimed = judge("allow if { time.now_ns() > 0 }"), judge("allow if { input.path }")
        for each in (timed, untimed):
            assert (await made.asks(each)).ruling.allows
        now = made.reactor.now
        for each, until in ((timed, now + 5), (untimed, float("inf"))):
            asked = each.asked(Request("GET", "/lamps/7"), "lamps.production")
            assert asked is not None
            answer = each.find(asked, now)
            assert answer is not None and answer.until <= until
