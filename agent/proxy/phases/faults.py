# mypyc: compiled
"""`fault`: delays, aborts and slow answers on purpose."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Hold, Refuse, Verdict
from agent.proxy.report.story import Entry, InForce, header_lines
from agent.proxy.table.lasting import Lasting
from policies.kinds.fault import decide as fault
from policies.kinds.fault.decide import Injected
from policies.language.answer import BODILESS


class Faults(Phase):
    """Holds, refuses, slows down."""

    __slots__ = ("compiled",)

    def __init__(self, state: Lasting, in_force: InForce, compiled: fault.Compiled) -> None:
        super().__init__("fault", "admit", state, in_force)
        self.compiled = compiled

    def decide(self, subject: Subject) -> Verdict | None:
        """The first rule that matches, for its share of the requests."""
        injected = self.compiled.decide(subject.view, time.time(), subject.rng, self.state.name)
        return None if injected is None else _hold(injected)

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """What is done to it; or for how long that may be."""
        if not isinstance(verdict, Hold):
            until = f"{datetime.fromtimestamp(self.compiled.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"
            expired = self.compiled.expires <= time.time()
            return self.entry("nothing is injected", f"{'expired' if expired else 'in force until'} {until}")
        done = [f"delay {verdict.delay_s:g} s"] if verdict.delay_s else []
        if verdict.then is not None:
            status = verdict.then.refusal.status
            done.append("close the connection" if verdict.then.resets else f"answer {status}")
        if verdict.bytes_per_s:
            done.append(f"throttle to {verdict.bytes_per_s:g} bytes/s")
        return self.entry(", ".join(done), f"{verdict.what}: {verdict.reason}")


def _hold(injected: Injected) -> Hold:
    then: Refuse | None = None
    abort = injected.abort
    if abort is not None:
        refusal = Refusal(abort.status, "fault", injected.reason, unsent=True)
        bare = abort.status in BODILESS or any(name.lower() == "content-type" for name, _ in abort.headers)
        then = Refuse(refusal, header_lines(abort.headers), abort.body if abort.body or bare else None)
    elif injected.reset:
        then = Refuse(Refusal(503, "fault", injected.reason, unsent=True), resets=True)
    return Hold(injected.rule, injected.reason, injected.delay_s, then, injected.bytes_per_s)
