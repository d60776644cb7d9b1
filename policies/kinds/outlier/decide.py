# mypyc: interpreted, because it reads a document once
"""What an `outlier` document is for the ejector."""

from __future__ import annotations

from policies.kind import ANYWHERE, Scope
from policies.kinds.outlier.document import Outlier
from policies.kinds.outlier.ejector import Figures
from policies.language.duration import seconds


def compile(document: Outlier, scope: Scope = ANYWHERE) -> Figures:
    """A checked document, as figures."""
    return Figures(
        consecutive_5xx=document.consecutive_5xx,
        consecutive_gateway=document.consecutive_gateway,
        consecutive_local=document.consecutive_local_origin,
        failure_rate=document.failure_percent / 100,
        success_factor=document.success_factor,
        latency_factor=document.latency_factor,
        latency_floor_s=seconds(document.latency_floor),
        interval_s=seconds(document.interval),
        min_requests=document.min_requests,
        min_endpoints=document.min_endpoints,
        base_s=seconds(document.ejection),
        max_s=seconds(document.max_ejection),
        max_percent=document.max_percent,
    )
