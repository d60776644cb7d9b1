from __future__ import annotations

from agent.control.traffic.transitions import Transitions
from agent.frames import Transition
from tests.support.tables import Etcd, instance

BREAKER = {"trip": {"consecutive": 3}}
OUTLIER = {"consecutive_5xx": 3}


def turned(kind: str, endpoint: str, after: str) -> Transition:
    return Transition(kind, "pets", endpoint, "", after, "", False, 0.0)


def shown(transitions: Transitions, etcd: Etcd) -> list[tuple[str, str]]:
    return [(event.kind, event.endpoint) for event in transitions.in_force(etcd.table)]


def test_what_lasts_is_shown_while_its_policy_and_its_endpoint_are_there() -> None:
    """A breaker's and an ejection's, of a service and of an instance; of a wider pattern, too; and again when that
    is back."""
    etcd, transitions = Etcd(), Transitions(lambda _: None)
    etcd.put({f"instances/pets/{id}": instance(80 + n) for n, id in enumerate("ab")})
    etcd.put({"policies/breaker/pets": BREAKER, "policies/outlier/*": OUTLIER})
    transitions.observe(
        [turned("breaker", "", "open"), turned("breaker", "a", "open"), turned("outlier", "b", "ejected")]
    )
    assert shown(transitions, etcd) == [("breaker", ""), ("breaker", "a"), ("outlier", "b")]
    etcd.delete("policies/breaker/pets")
    assert shown(transitions, etcd) == [("outlier", "b")]
    etcd.put({"policies/breaker/*": BREAKER})
    assert shown(transitions, etcd) == [("breaker", ""), ("breaker", "a"), ("outlier", "b")]
    etcd.put({"agents/web-1": {"address": "10.0.0.1", "inbound_port": 15006}})
    etcd.put({"instances/pets/b": {**instance(81), "state": "draining"}})
    etcd.delete("instances/pets/b")
    assert shown(transitions, etcd) == [("breaker", ""), ("breaker", "a")]
    etcd.delete("policies/outlier/*", "policies/breaker/*")
    assert shown(transitions, etcd) == []
    transitions.observe([turned("breaker", "", "closed")])
    etcd.put({"policies/breaker/*": BREAKER})
    assert shown(transitions, etcd) == [("breaker", "a")]
