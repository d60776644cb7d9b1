"""Kinds of which documents of every level apply together: what control finds, says once, and a worker makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.mesh.table import Table
from agent.frames import Change, Gone, PolicyFrame, Stage
from agent.portions import said_once
from agent.proxy.table.table import Table as Plans
from policies.catalogue import KINDS
from policies.kinds.tls.decide import STRICT
from policies.language.names import candidates
from registry.store import Change as Put
from tests.support.tables import KEYS, Etcd, P, instance

PETS, CATS = "pets.a.production", "cats.production"
PATTERNS = ("*", "*.production", "*.a.production", PETS, CATS)
MTLS = ("off", "permissive", "strict")


def made() -> Etcd:
    etcd = Etcd()
    etcd.put({f"instances/{service}/1": instance() for service in (PETS, CATS)})
    return etcd


def stage(table: Table, service: str = PETS) -> Stage:
    found = table.frame(service)
    assert isinstance(found, Stage)
    return found


def levels(frames: dict[str, PolicyFrame], kind: str = "tls") -> list[str]:
    """Patterns of the documents that apply."""
    frame = frames.get(kind)
    return [each.key for each in (frame, *frame.wider)] if frame is not None else []


def planned(frames: list[Any]) -> Plans:
    """A worker's table, of what it was told."""
    plans = Plans()
    for frame in said_once(frames):
        assert not isinstance(frame, Gone | Change) and isinstance(frame, Stage)
        assert plans.stage(frame.name, 1, frame.endpoints, frame.policies, 0.0, frame.audits) == []
    plans.commit(1)
    return plans


def test_any_other_kind_is_that_of_the_most_specific() -> None:
    """Nothing else has wider ones."""
    etcd = made()
    for kind in KINDS:
        if not kind.every_level:
            etcd.put({f"policies/{kind.name}/{pattern}": {"mode": "enforce"} for pattern in ("*", PETS)})
    sent = stage(etcd.table).policies
    assert sent and all(not frame.wider and frame.key == PETS for frame in sent.values())


@settings(max_examples=150)
@given(
    st.dictionaries(st.sampled_from(PATTERNS), st.tuples(st.sampled_from(MTLS), st.sampled_from(["enforce", "audit"]))),
    st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from(MTLS)),
)
def test_all_that_match_apply(put: dict[str, tuple[str, str]], audits: dict[str, str]) -> None:
    """The most specific first; those that are only watched among themselves. And so for a worker, which is told of each
    text once."""
    etcd = made()
    etcd.put({f"policies/tls/{pattern}": {"mtls": mtls, "mode": mode} for pattern, (mtls, mode) in put.items()})
    etcd.put({f"audits/tls/{pattern}": {"mtls": mtls} for pattern, mtls in audits.items()})
    plans = planned([stage(etcd.table, service) for service in (PETS, CATS)])
    for service in (PETS, CATS):
        enforced = [p for p in candidates(service) if p in put and put[p][1] == "enforce"]
        watched = [p for p in candidates(service) if p in audits or (p in put and put[p][1] == "audit")]
        sent = stage(etcd.table, service)
        assert (levels(sent.policies), levels(sent.audits)) == (enforced, watched)
        plan = plans.services[service].plan
        assert (plan.tls is None) == (not enforced)
        if plan.tls is not None:
            assert plan.tls.mode == max(MTLS.index(put[p][0]) for p in enforced)
            assert [policy.key for policy in plan.policies["tls"].levels] == enforced
        if watched:
            assert plan.watched is not None
            assert [policy.key for policy in plan.watched.policies["tls"].levels] == watched


@pytest.mark.parametrize("pattern", PATTERNS[:-1])
def test_a_level_that_comes_and_goes(pattern: str) -> None:
    """Touches all that it is for, however many more specific ones there are."""
    etcd = made()
    etcd.put({f"policies/tls/{other}": {"mtls": "off"} for other in PATTERNS if other != pattern})
    before = levels(stage(etcd.table).policies)
    assert PETS in etcd.put({f"policies/tls/{pattern}": {"mtls": "strict"}})
    assert levels(stage(etcd.table).policies) == list(candidates(PETS))
    assert PETS in etcd.delete(f"policies/tls/{pattern}")
    assert levels(stage(etcd.table).policies) == before


@pytest.mark.parametrize("pattern", PATTERNS[:-1])
def test_a_level_that_is_refused(pattern: str) -> None:
    """What was good there stays, beside the others; where nobody knows it, nothing is laxer than it can have been."""
    etcd = made()
    etcd.put({f"policies/tls/{other}": {"mtls": "permissive"} for other in PATTERNS})
    good = stage(etcd.table).policies
    etcd.put({f"policies/tls/{pattern}": b'{"mtls": "of the next version"}'})
    assert levels(stage(etcd.table).policies) == levels(good)
    assert planned([stage(etcd.table)]).services[PETS].plan.tls.mode == 1  # type: ignore[union-attr]

    late = Table(KEYS, "here")  # it knows of no state before
    stands = {f"policies/tls/{other}": b'{"mtls": "off"}' for other in PATTERNS if other != pattern}
    stands[f"policies/tls/{pattern}"] = b'{"mtls": "of the next version"}'
    stands[f"instances/{PETS}/1"] = b'{"address": "10.0.0.1", "port": 80}'
    late.apply([Put(P + key, value, 9, 5) for key, value in stands.items()], 9, whole=True)
    assert levels(stage(late).policies) == list(candidates(PETS))
    plan = planned([stage(late)]).services[PETS].plan
    assert plan.tls is not None and plan.tls.mode == STRICT
    assert plan.tls.reason_policy == f"tls/{pattern} of revision 9"


def test_a_control_of_before_tells_the_most_specific_only() -> None:
    """Its frames have no wider ones, and are understood."""
    frame = PolicyFrame("*", 7, b'{"mtls": "strict"}')
    plans = Plans()
    assert plans.stage(PETS, 1, [], {"tls": frame}, 0.0) == []
    plans.commit(1)
    assert plans.services[PETS].plan.tls is not None
