# mypyc: interpreted, because what control tells is cut between requests, which do not wait for it
"""How much of a table is said at a time: a text once, and of a service no more than is taken in one go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from agent.frames import Change, PolicyFrame, Stage, ToWorker

SLICE: Final = 256
"""Endpoints that a worker takes without serving requests in between."""


def sliced(stage: Stage) -> Iterator[Stage | Change]:
    """A service in portions that come to the same."""
    name, revision, endpoints = stage.name, stage.revision, stage.endpoints
    if len(endpoints) <= SLICE:
        yield stage
        return
    yield Stage(name, revision, [], stage.policies, stage.audits)
    last = (len(endpoints) - 1) // SLICE * SLICE
    for start in range(0, last + 1, SLICE):
        yield Change(name, revision, endpoints[start : start + SLICE], more=start < last)


def said_once(frames: Iterable[ToWorker]) -> list[ToWorker]:
    """Frames that are sent to a worker one after the other: the text of a pattern's document, which may come with a
    thousand services, stands in the first of them, and is empty in the others."""
    said: set[tuple[str, str, int, bool]] = set()
    return [
        _said(frame, said) if isinstance(frame, Stage | Change) and (frame.policies or frame.audits) else frame
        for frame in frames
    ]


def _said(stage: Stage | Change, said: set[tuple[str, str, int, bool]]) -> Stage | Change:
    policies = _texts(stage.policies, said, audit=False) if stage.policies is not None else None
    return msgspec.structs.replace(stage, policies=policies, audits=_texts(stage.audits, said, audit=True))


def _texts(
    policies: dict[str, PolicyFrame], said: set[tuple[str, str, int, bool]], *, audit: bool
) -> dict[str, PolicyFrame]:
    """`audit`: documents of the same kind, pattern and revision, put in one transaction, need not be the same."""
    return {kind: _text(kind, policy, said, audit=audit) for kind, policy in policies.items()}


def _text(kind: str, policy: PolicyFrame, said: set[tuple[str, str, int, bool]], *, audit: bool) -> PolicyFrame:
    if policy.wider:
        wider = tuple(_text(kind, each, said, audit=audit) for each in policy.wider)
        policy = msgspec.structs.replace(policy, wider=wider)
    place = (kind, policy.key, policy.revision, audit)
    if policy.unknown:
        return policy
    if place in said:
        return msgspec.structs.replace(policy, text=b"")
    if "*" in policy.key:
        said.add(place)
    return policy
