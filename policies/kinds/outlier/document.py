"""`outlier`: endpoints that do worse than their peers are passed over for a while."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from policies.language.document import Document
from policies.language.duration import DAY_S, Duration, bounded
from policies.language.plain import Flaw


class Outlier(Document, frozen=True, kw_only=True):
    """The document."""

    consecutive_5xx: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Failures in a row that eject at once; 0 off")
    ] = 5
    consecutive_gateway: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="The same for 502, 503, 504 and tries without an answer; 0 off"),
    ] = 0
    consecutive_local_origin: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Tries without an answer in a row, which count for no other row; 0 off"),
    ] = 0
    failure_percent: Annotated[
        float, Meta(ge=0, le=100, description="Failed requests in the interval that eject, whatever others do; 0 off")
    ] = 0
    success_factor: Annotated[
        float,
        Meta(ge=0, le=10, description="Standard deviations below the mean success rate that eject; 0 off"),
    ] = 1.9
    latency_factor: Annotated[float, Meta(ge=0, le=1000, description="Times the median latency that eject; 0 off")] = 0
    latency_floor: Annotated[Duration, Meta(description="An average below this is never too slow")] = "50ms"
    interval: Annotated[Duration, Meta(description="How often endpoints are compared")] = "10s"
    min_requests: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Requests in the interval without which one is not compared")
    ] = 20
    min_endpoints: Annotated[
        int, Meta(ge=2, le=10_000, description="Endpoints with so many requests without which nothing is compared")
    ] = 3
    ejection: Annotated[Duration, Meta(description="For how long the first time; then twice, three times ...")] = "30s"
    max_ejection: Annotated[Duration, Meta(description="And never longer than this")] = "5m"
    max_percent: Annotated[
        float, Meta(ge=1, le=99, description="Of the endpoints that may be out; the last one never is")
    ] = 50

    def check(self) -> None:
        """Everything the types let pass."""
        in_a_row = self.consecutive_5xx, self.consecutive_gateway, self.consecutive_local_origin
        if not any((*in_a_row, self.failure_percent, self.success_factor, self.latency_factor)):
            raise Flaw("$", "every detector is off: nobody would ever be ejected; delete the policy instead")
        first = bounded("$.ejection", self.ejection, 0.1, DAY_S)
        if first > bounded("$.max_ejection", self.max_ejection, 0.1, DAY_S):
            raise Flaw("$.ejection", "longer than $.max_ejection")
        bounded("$.interval", self.interval, 0.1, DAY_S)
        floor = bounded("$.latency_floor", self.latency_floor, 0, DAY_S)
        if not self.latency_factor and floor != 0.05:
            raise Flaw("$.latency_floor", "does nothing without $.latency_factor")
