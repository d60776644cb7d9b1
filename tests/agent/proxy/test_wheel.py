"""Coarse timers: each is called once, soon after its deadline; and what is over is kept nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import build
from agent.proxy.engine.reactor import INFINITY, Reactor, Timed
from tests.support.playbook import Playbook

steps = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, 4), st.integers(0, 400)),
        st.tuples(st.just("forget"), st.integers(0, 4), st.just(0)),
        st.tuples(st.just("pass"), st.just(0), st.integers(1, 150)),
    ),
    max_size=60,
)


if build.kind() == build.COMPILED:
    pytest.skip("tests cannot derive from compiled classes; interpreted, these are run", allow_module_level=True)


class Noted(Timed):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[float] = []

    def on_deadline(self, now: float) -> None:
        self.calls.append(now)


@given(steps)
def test_a_timer_is_called_once_and_soon(script: list[tuple[str, int, int]]) -> None:
    """Whatever was armed, armed again for sooner or later, or forgotten before; times in hundredths of a second."""
    reactor = Reactor()
    try:
        wheel, now = reactor.wheel, 1000.0
        timers = [Noted() for _ in range(5)]
        due = [INFINITY] * 5
        for what, which, hundredths in script:
            timer = timers[which]
            if what == "arm":
                due[which] = now + hundredths / 100
                wheel.arm(timer, due[which])
            elif what == "forget":
                due[which] = INFINITY
                wheel.forget(timer)
            else:
                now = round(now + hundredths / 100, 2)
                wheel.expire(now)
                for at, each in enumerate(timers):
                    if due[at] <= now - 0.02:
                        assert each.calls, "it is late"
                    if each.calls:
                        assert each.calls == [now] and due[at] <= now
                        each.calls.clear()
                        due[at] = INFINITY
            standing = [each for slot in wheel._slots.values() for each in slot]
            assert len(standing) == len(set(standing)), "one slot each"
            assert all(each.stands_at == INFINITY for each in timers if each not in standing)
            assert all(due[at] == INFINITY or timer in standing for at, timer in enumerate(timers))
    finally:
        reactor.close()


def test_a_timer_that_ends_another_in_its_slot() -> None:
    """That one is not called any more."""
    reactor = Reactor()

    class Ends(Noted):
        def on_deadline(self, now: float) -> None:
            super().on_deadline(now)
            reactor.wheel.forget(other)

    one, other = Ends(), Noted()
    for each in (one, other):
        reactor.wheel.arm(each, 5.0)
    reactor.wheel.expire(6.0)
    reactor.close()
    assert (one.calls, other.calls) == ([6.0], [])


def test_a_connection_that_is_closed_is_kept_nowhere() -> None:
    """Not for as long as it might have been idle: a client that connects a thousand times a second would be remembered
    for five minutes each time."""
    with Playbook() as play:
        play.put("one")
        for _ in range(20):
            client = play.client()
            assert client >> b"GET / HTTP/1.1\r\nHost: pets.production\r\nConnection: close\r\n\r\n"
            up = play.upstream("one")
            assert up >> b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            client.ends()
            up.ends()
        assert not play.worker.connections
        assert not any(play.worker.reactor.wheel._slots.values())
