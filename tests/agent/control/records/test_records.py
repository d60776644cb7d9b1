"""One pipeline of records: whoever offers never waits, every sink has what it takes, and what is lost is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from agent.control.records.records import ACCESS_LOG, Records
from agent.control.records.sink import Sink
from agent.control.records.waiting import KINDS, Batch, Waiting
from agent.settings.file import parse


def records(text: str) -> Records:
    return Records(parse(text, "agent.toml"))


async def offered(of: Records, *lines: tuple[str, bytes, int]) -> None:
    """Have them offered, and the sinks ended."""
    async with trio.open_nursery() as nursery:
        of.start(nursery)
        await trio.testing.wait_all_tasks_blocked()
        for kind, line, count in lines:
            of.offer(kind, line, count)  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_each_sink_has_the_kinds_that_it_takes(tmp_path: Path) -> None:
    """One record or many at once, with the end of the line or without."""
    of = records(
        f'access_log = "{tmp_path}/access"\n'
        f'[[records.sinks]]\nto = "{tmp_path}/all"\nkinds = ["access", "audit", "events", "traces"]\n'
        f'[[records.sinks]]\nto = "{tmp_path}/audit"\nkinds = ["audit"]\n'
    )
    assert all(of.wants(kind) for kind in KINDS)
    await offered(of, ("access", b'{"a":1}\n{"a":2}\n', 2), ("audit", b'{"b":1}', 1), ("events", b'{"c":1}\n', 1))
    assert (tmp_path / "access").read_bytes() == b'{"a":1}\n{"a":2}\n'
    assert (tmp_path / "audit").read_bytes() == b'{"b":1}\n'
    assert (tmp_path / "all").read_bytes() == b'{"a":1}\n{"a":2}\n{"b":1}\n{"c":1}\n'
    state = {each["name"]: each for each in of.as_state()}
    assert state[f"{tmp_path}/all"]["delivered"] == {"access": 2, "audit": 1, "events": 1}
    assert state[ACCESS_LOG]["delivered"] == {"access": 2} and of.lost() == 0


async def test_where_nobody_wants_records_none_is_made() -> None:
    """Nothing waits, and nothing is counted as lost."""
    of = records("")
    assert not any(of.wants(kind) for kind in KINDS)
    await offered(of, ("audit", b"{}", 1))
    assert of.as_state() == [] and of.lost() == 0


async def test_one_sink_that_fails_costs_no_other_one(tmp_path: Path) -> None:
    """A disk that is full, a directory that is not there."""
    of = records(
        '[[records.sinks]]\nto = "/dev/full"\nkinds = ["audit"]\n'
        '[[records.sinks]]\nto = "/no/such/place"\nkinds = ["audit"]\n'
        f'[[records.sinks]]\nto = "{tmp_path}/audit"\nkinds = ["audit"]\n'
    )
    await offered(of, ("audit", b"{}", 1), ("audit", b"{}", 1))
    full, nowhere, good = of.as_state()
    assert (full["lost"], nowhere["lost"], good["lost"]) == ({"audit": 2}, {"audit": 2}, {})
    assert full["trouble"] == "No space left on device" and "/no/such/place" in nowhere["trouble"]
    assert good["trouble"] == "" and (tmp_path / "audit").read_bytes() == b"{}\n{}\n"
    assert of.lost("/dev/full") == 2


async def test_a_file_that_could_not_be_opened_is_tried_again(tmp_path: Path) -> None:
    """Somebody makes the directory; no signal is needed."""
    of = records(f'[[records.sinks]]\nto = "{tmp_path}/later/audit"\nkinds = ["audit"]\n')
    async with trio.open_nursery() as nursery:
        of.start(nursery)
        of.offer("audit", b'{"n":1}')
        with trio.fail_after(60):
            while not of.lost():
                await trio.sleep(0.001)
        (tmp_path / "later").mkdir()
        of.offer("audit", b'{"n":2}')
        with trio.fail_after(60):
            while not of.sinks[0].waiting.delivered:
                await trio.sleep(0.001)
        assert of.sinks[0].trouble == ""
        nursery.cancel_scope.cancel()
    assert (tmp_path / "later" / "audit").read_bytes() == b'{"n":2}\n'


class Hangs(Sink):
    """Takes one line of what it is given, and then nothing."""

    async def deliver(self, batches: list[Batch]) -> None:
        self.account(batches[0].kind, 1)
        await trio.sleep_forever()


async def test_a_sink_that_hangs_loses_the_newest_and_ends_with_the_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whoever offers is done at once; at the end each line is either delivered or lost."""
    sink = Hangs("hangs", KINDS, 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        sink.offer(Batch("audit", b"x" * 50, 5))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            sink.offer(Batch("access", b"x" * 50, 1))
        assert +sink.waiting.lost == {"access": 2} and sink.trouble == "it does not keep up"
        nursery.cancel_scope.cancel()
    assert sink.waiting.delivered == {"audit": 1} and +sink.waiting.lost == {"access": 4, "audit": 4}


class Fails(Sink):
    async def deliver(self, batches: list[Batch]) -> None:
        raise ZeroDivisionError


async def test_a_sink_with_a_bug_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    """What it had is counted as lost, what comes is tried; and the agent lives."""
    sink = Fails("fails", KINDS, 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run)
        for _ in range(3):
            sink.offer(Batch("audit", b"x" * 50, 5))
            await trio.sleep(2)
        assert "ZeroDivisionError" in sink.trouble and sink.waiting.lost["audit"] == 15
        nursery.cancel_scope.cancel()


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 60), st.booleans()), max_size=60), st.integers(1, 100))
def test_each_line_is_waiting_taken_or_lost(steps: list[tuple[str, int, bool]], most: int) -> None:
    """Whatever comes and whenever it is taken; and in order."""
    waiting = Waiting(100)
    put: list[bytes] = []
    taken: list[bytes] = []
    lost = 0
    for number, (kind, size, takes) in enumerate(steps):
        lines = b"%d" % number * size
        if waiting.put(Batch(kind, lines, 1)):  # type: ignore[arg-type]
            put.append(lines)
        else:
            lost += 1
        if takes:
            taken += [batch.lines for batch in waiting.take(most)]
    while rest := waiting.take(most):
        taken += [batch.lines for batch in rest]
    assert taken == put and waiting.bytes == 0 and waiting.lost.total() == lost


async def test_nothing_in_a_record_speaks_to_a_terminal(tmp_path: Path) -> None:
    """Whoever makes it: it says the same, in escapes."""
    of = records(f'[[records.sinks]]\nto = "{tmp_path}/audit"\nkinds = ["audit"]\n')
    await offered(of, ("audit", '{"who":"a\u202eb\x9b2J"}'.encode(), 1))
    text = (tmp_path / "audit").read_text()
    assert text.isascii() and json.loads(text) == {"who": "a\u202eb\x9b2J"}


@pytest.mark.parametrize(
    ("sink", "words"),
    [
        ('to = "syslog://host"\nkinds = ["audit"]', "records.sinks[0].to: 'syslog://host'; such as a path"),
        ('to = "syslog+tcp://"\nkinds = ["audit"]', "records.sinks[0].to: a host and a port"),
        ('to = "syslog+tcp://h:99999"\nkinds = ["audit"]', "records.sinks[0].to: "),
        ('to = "syslog+udp://h/x"\nkinds = ["audit"]', "syslog has no path"),
        ('to = "syslog+unix://dev/log"\nkinds = ["audit"]', "a socket's whole path, such as syslog+unix:///dev/log"),
        ('to = "otlp+http://u:p@h"\nkinds = ["audit"]', "no user, query or fragment"),
        ('to = "/var/log/x"\nkinds = []', "records.sinks[0].kinds"),
        ('to = "/var/log/x"\nkinds = ["metrics"]', "records.sinks[0].kinds[0]"),
        ('to = "/var/log/x"', "kinds"),
        ('to = "/var/log/x"\nkinds = ["audit"]\nca = "/x"', "records.sinks[0].ca: for syslog+tls"),
        ('to = "otlp+https://h"\nkinds = ["audit"]\ncert = "/x"', "a client certificate is a pair: key is missing"),
        ('to = "-"\nkinds = ["audit"]\nheaders = { a = "/b" }', "records.sinks[0].headers: for otlp"),
        ('to = "otlp+http://h"\nkinds = ["audit"]\nheaders = { a = "b" }', "the path of a file that holds the value"),
        ('to = "-"\nkinds = ["audit"]\n[[records.sinks]]\nto = "-"\nkinds = ["access"]', "is sinks[0] already"),
        ('to = "-"\nkinds = ["audit"]\nmax_waiting_bytes = 1', "max_waiting_bytes"),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(sink: str, words: str) -> None:
    """With its line, before anything starts."""
    with pytest.raises(Exception, match=r"agent\.toml:\d+: ") as caught:
        records(f"[[records.sinks]]\n{sink}\n")
    assert words in str(caught.value)
