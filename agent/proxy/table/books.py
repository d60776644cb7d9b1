# mypyc: compiled
"""How what documents count in follows them: made where there is a document for it, told its figures, taken away with
it. For those that are in force, and for those that are only watched."""

from __future__ import annotations

from agent.proxy.table.asked import Asked
from agent.proxy.table.lasting import Book
from policies.endpoint import Judgement
from policies.kinds.breaker.circuit import Circuit
from policies.kinds.outlier.ejector import Ejector, Record
from policies.kinds.ratelimit.buckets import Buckets, together
from policies.kinds.ratelimit.cells import Cells
from policies.kinds.ratelimit.limit import Limit
from policies.kinds.shed.common import Common
from policies.kinds.shed.limiter import Limiter
from policies.together import Gauge, Together


class Keeper:
    """Of one book."""

    __slots__ = ("_gauge", "_together", "book", "name")

    def __init__(self, book: Book, name: str, common: Together | None) -> None:
        """`name`: under which the workers of the agent count together, in `common`."""
        self.book = book
        self.name = name
        self._together = common
        self._gauge = Gauge(common, name) if common is not None else None

    def gauge(self, asked: Asked | None) -> Gauge | None:
        """Where what is under way is counted, as far as a breaker limits that."""
        whole = asked.breaker.compiled.service if asked is not None and asked.breaker is not None else None
        return self._gauge if whole is not None and whole.limits() else None

    def counts_together(self, limit: Limit) -> bool:
        """Whether the workers take from one bucket."""
        return self._together is not None and together(limit)

    def adopt(self, asked: Asked | None) -> None:
        """Of the service as a whole."""
        self._adopt_circuit(asked)
        self._adopt_limiter(asked)
        ejection = asked.ejection if asked is not None else None
        if ejection is None:
            self.book.ejector = None
        elif self.book.ejector is None:
            self.book.ejector = Ejector(ejection.rules)
        else:
            self.book.ejector.configure(ejection.rules)

    def _adopt_circuit(self, asked: Asked | None) -> None:
        book, gauge = self.book, self.gauge(asked)
        whole = asked.breaker.compiled.service if asked is not None and asked.breaker is not None else None
        if whole is None:
            if book.circuit is not None:
                book.circuit.count_together(None)
            book.circuit = None
            return
        if book.circuit is None:
            book.circuit = Circuit(whole)
        else:
            book.circuit.configure(whole)
        book.circuit.count_together(gauge)

    def _adopt_limiter(self, asked: Asked | None) -> None:
        book = self.book
        shed = asked.shed if asked is not None else None
        if shed is None:
            if book.limiter is not None:
                book.limiter.count_together(None)
            book.limiter = None
            return
        if book.limiter is None:
            book.limiter = Limiter(shed.compiled.rules, Common(self._together, self.name))
        else:
            book.limiter.configure(shed.compiled.rules)
        book.limiter.count_together(self._gauge)

    def adopt_limits(self, asked: Asked | None, share: float, agents: int) -> None:
        """`share` is this worker's part of what its agent may let pass; `agents` are those that share the limits of the
        mesh."""
        book = self.book
        if asked is None or asked.limits is None:
            book.buckets = None
            return
        if book.buckets is None:
            cells = Cells(self._together) if self._together is not None else None
            book.buckets = Buckets(1.0, self.name, cells)
        limits = asked.limits.limits
        book.buckets.configure({limit.name for limit in limits})
        for limit in limits:
            own = 1.0 if self.counts_together(limit) else share
            if limit.shared:
                book.buckets.begin(limit.name, own / agents)
            else:
                book.buckets.own(limit.name, own)


def adopt_judgement(judgement: Judgement, asked: Asked | None) -> None:
    """Of one endpoint."""
    each = asked.breaker.compiled.endpoint if asked is not None and asked.breaker is not None else None
    if each is None:
        judgement.circuit = None
    elif judgement.circuit is None:
        judgement.circuit = Circuit(each)
    else:
        judgement.circuit.configure(each)
    if asked is None or asked.ejection is None:
        judgement.record = None
    elif judgement.record is None:
        judgement.record = Record()
