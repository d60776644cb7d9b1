"""All that is wrong in one list: the same that several say is one, and two things stay two."""

from __future__ import annotations

from agent.findings.alerts import alerts
from agent.findings.finding import Finding, Severity


def found(where: str, what: str, severity: Severity = "warning", id: str = "x") -> Finding:
    """One, with a next step."""
    return Finding(id, severity, where, what, "do")


def test_what_several_say_is_one_whatever_its_figures() -> None:
    """The figures shown are those of the first; etcd's word counts as somebody's, and is nobody's host."""
    told = {
        "b": [found("pets.p/v1", "outlier out: 6 of 9 failed")],
        "a": [found("pets.p/v1", "outlier out: 5 of 9 failed")],
    }
    (only,) = alerts([], told)
    assert (only.what, only.hosts) == ("outlier out: 5 of 9 failed", ("a", "b"))
    of_etcd = found("pets.p/v1", "outlier out: 1 of 1 failed")
    (only,) = alerts([of_etcd], told)
    assert (only.what, only.hosts) == (of_etcd.what, ("a", "b"))


def test_what_one_says_twice_is_two() -> None:
    """With other figures, of one host or of etcd; the same word for word is one."""
    twice = [found("kafka:9092", "3 wait"), found("kafka:9092", "4 wait"), found("kafka:9092", "4 wait")]
    assert [each.what for each in alerts([], {"a": twice})] == ["3 wait", "4 wait"]
    assert [each.hosts for each in alerts([], {"a": twice})] == [("a",), ("a",)]
    assert [(each.what, each.hosts) for each in alerts(twice, {"a": twice[:1]})] == [("4 wait", ()), ("3 wait", ("a",))]


def test_others_stay_others() -> None:
    """By name, place, severity or words."""
    those = [found("p", "w"), found("q", "w"), found("p", "v"), found("p", "w", "info"), found("p", "w", id="y")]
    assert len(alerts(those[:1], {"a": those[1:]})) == 5


def test_the_worst_come_first_and_etcd_before_agents() -> None:
    """Then agents by name, then as each found it."""
    told = {"b": [found("1", "b")], "a": [found("2", "a", "error"), found("3", "a", "info"), found("4", "a")]}
    assert [each.where for each in alerts([found("5", "m")], told)] == ["2", "5", "4", "1", "3"]


def test_who_says_nothing_is_told() -> None:
    """Silence is not health."""
    (only,) = alerts([], {}, {"c": "nobody listens"})
    assert (only.id, only.severity, only.where, only.hosts) == ("silent", "warning", "c", ())
    assert "nobody listens" in only.what
