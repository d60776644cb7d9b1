"""Endpoints to balance over, and what a balancer made of them."""

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

from policies.endpoint import Endpoint
from policies.kinds.balance.algorithms import Algorithm
from policies.kinds.balance.decide import Balancer


def endpoint(id: str, **given: Any) -> Endpoint:
    """One endpoint of pets.production; its id is all that matters."""
    return Endpoint("pets.production", id, "10.0.0.1", 8080, **given)


def endpoints(count: int, prefix: str = "pets", **given: Any) -> list[Endpoint]:
    """pets-0, pets-1, ... all alike."""
    return [endpoint(f"{prefix}-{n}", **given) for n in range(count)]


def weighing(weights: Iterable[float]) -> list[Endpoint]:
    """pets-0, pets-1, ... with these weights."""
    return [endpoint(f"pets-{n}", weight=weight) for n, weight in enumerate(weights)]


def tally(
    balancer: Balancer | Algorithm, picks: int, *, keys: Iterable[int] = (), now: float = 100.0, seed: int = 7
) -> Counter[str]:
    """How often each id was picked, over keys or else over `picks` requests without one."""
    rng = random.Random(seed)
    asked: Iterable[int | None] = keys or [None] * picks
    found: Counter[str] = Counter()
    for key in asked:
        picked = balancer.pick(key, now, rng)
        assert picked is not None
        found[picked.id] += 1
    return found


def owners(balancer: Balancer | Algorithm, keys: Iterable[int]) -> dict[int, str]:
    """Whose each key is."""
    rng = random.Random(0)
    found = {}
    for key in keys:
        picked = balancer.pick(key, 100.0, rng)
        assert picked is not None
        found[key] = picked.id
    return found
