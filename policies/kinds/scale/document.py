"""`scale`: how many instances of a service there should be, as advice to whatever starts and stops them."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import Duration, bounded
from policies.language.plain import Flaw, below

MOST: Final = 10_000
Above = Annotated[float, Meta(gt=0, le=1e9)]
Amount = Annotated[float, Meta(ge=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]
Instances = Annotated[int, Meta(ge=1, le=MOST)]
"""0 is none: nothing would start the first one again, for a service without instances has no figures."""
SHARED: Final = ("pending", "in_flight", "rate", "cpu")
"""Figures of one instance: they grow when there are fewer."""
LATENCIES: Final = ("p50", "p90", "p99")


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Figures that stay on one side of a value; of several all have to."""

    pending: Annotated[Amount | None, Meta(description="Requests that wait for a connection, an instance")] = None
    in_flight: Annotated[Amount | None, Meta(description="Requests under way, an instance")] = None
    rate: Annotated[Amount | None, Meta(description="Requests a second, an instance")] = None
    cpu: Annotated[Amount | None, Meta(description="Cores that an instance's program takes")] = None
    p50: Annotated[Duration | None, Meta(description="What half of all requests took at most")] = None
    p90: Duration | None = None
    p99: Duration | None = None
    shed: Annotated[Share | None, Meta(description="Share of requests that were shed, 0 to 1")] = None
    for_: Annotated[Duration, Meta(description="For how long without a break")] = msgspec.field(
        name="for", default="1m"
    )
    step: Annotated[int, Meta(ge=1, le=1000, description="How many instances more, or fewer")] = 1

    def check(self, path: str) -> None:
        """Raises Flaw."""
        bounded(below(path, "for"), self.for_, 2, 3600)
        if not self.values(path):
            raise Flaw(path, f"no figure; one or more of {', '.join((*SHARED, *LATENCIES, 'shed'))}")

    def values(self, path: str = "$") -> dict[str, float]:
        """By figure: the value, of latencies in seconds. Raises Flaw."""
        told = {name: getattr(self, name) for name in (*SHARED, "shed")}
        found = {name: float(value) for name, value in told.items() if value is not None}
        for name in LATENCIES:
            value = getattr(self, name)
            if value is not None:
                found[name] = bounded(below(path, name), value, 0.0005, 60)
        return found


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an instance should have, whatever all of them have; of several the one that needs most counts."""

    rate: Annotated[Above | None, Meta(description="Requests a second")] = None
    in_flight: Annotated[Above | None, Meta(description="Requests under way")] = None
    pending: Annotated[Above | None, Meta(description="Requests that wait for a connection")] = None
    cpu: Annotated[Above | None, Meta(description="Cores")] = None

    def values(self) -> dict[str, float]:
        """By figure: the value."""
        told = {name: getattr(self, name) for name in SHARED}
        return {name: float(value) for name, value in told.items() if value is not None}


class Cooldown(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long advice stands before it goes on in a direction."""

    up: Duration = "10s"
    down: Annotated[Duration, Meta(description="Also: what was needed within this time is not taken away")] = "3m"


class Scale(Document, frozen=True, kw_only=True):
    """The document."""

    min: Instances = 1
    max: Instances = 10
    target: Target = Target()
    up: Annotated[tuple[Condition, ...], Meta(max_length=10, description="Any of them: more, where it is above")] = ()
    down: Annotated[
        tuple[Condition, ...], Meta(max_length=10, description="Any of them: fewer, where it is below")
    ] = ()
    stable: Annotated[Duration, Meta(description="Of how long figures are the mean")] = "60s"
    panic: Annotated[Duration, Meta(description="The same, where load jumps")] = "6s"
    panic_at: Annotated[float, Meta(ge=1.1, le=10, description="So many times what there is: then it has jumped")] = 2.0
    cooldown: Cooldown = Cooldown()

    def check(self) -> None:
        """What the types cannot say. Raises Flaw."""
        if self.min > self.max:
            raise Flaw("$.min", f"{self.min} is more than max ({self.max})")
        if not self.target.values() and not self.up:
            raise Flaw("$", "nothing says when there should be more; give it a target, or what is above in `up`")
        stable_s = bounded("$.stable", self.stable, 10, 120)
        panic_s = bounded("$.panic", self.panic, 2, 60)
        if panic_s >= stable_s:
            raise Flaw("$.panic", f"{panic_s:g} s is no shorter than stable ({stable_s:g} s)")
        bounded("$.cooldown.up", self.cooldown.up, 0, 3600)
        bounded("$.cooldown.down", self.cooldown.down, 0, 86400)
        for name, conditions in (("up", self.up), ("down", self.down)):
            for number, condition in enumerate(conditions):
                condition.check(below("$", name, number))
        self._check_apart()

    def _check_apart(self) -> None:
        """What brings an instance must not be what takes it away."""
        for number, down in enumerate(self.down):
            low = down.values()
            for up in self.up:
                high = up.values()
                for name in low.keys() & high.keys():
                    if low[name] >= high[name]:
                        raise Flaw(
                            below("$", "down", number, name),
                            f"{low[name]:g} is not below {high[name]:g}, above which $.up asks for more",
                        )
