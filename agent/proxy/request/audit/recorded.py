# mypyc: compiled
"""What is left of a request once it is over: its line in the access log, and what those see of it who tap its service.

Law: a request that nobody records and nobody taps pays a comparison for each of the two.
"""

from __future__ import annotations

from typing import Final

from agent.proxy.messages.origin import trace_id
from agent.proxy.report.access import MAX_USER_AGENT, chance_of
from agent.proxy.report.rows import MAX_HEADER
from agent.proxy.report.taps import Tapped, Taps
from agent.proxy.request.attempt import Attempt
from agent.proxy.request.judged import Judged
from agent.proxy.table.plan import Plan
from agent.requests.picking import is_fault
from policies.kinds.log.decide import REDACTED

RECORDED: Final = {True: "recorded", False: "left out"}
HIDDEN: Final = REDACTED.encode()
PROVEN: Final = "proven"
SAID: Final = "said"


class Recorded(Judged):
    """A request that leaves records."""

    __slots__ = ()

    # For those who tap.

    def begin_tap(self, taps: Taps, plan: Plan) -> None:
        """It sets off: whether anybody wants to see it. Asked only where somebody taps."""
        service, request = self.service, self.request
        assert service is not None
        caller = self.caller if self.stranger is None else self.stranger.id
        self.tapped = tapped = taps.begin(
            self.explained,
            plan.logging,
            self.reactor.now,
            self.inbound,
            caller,
            service.name,
            request.method,
            request.target,
        )
        if tapped is None:
            return
        self.explained = tapped.story
        if caller:
            known = not self.inbound or self.down.peer.known or self.stranger is not None
            tapped.called_as = PROVEN if known else SAID

    def _tell_rest(self, tapped: Tapped) -> None:
        """What is known of it by now."""
        secrets = [field.name for field in self.request.fields if self.is_secret(field.name.decode("latin-1"))]
        tapped.request.on_head(self.request.fields, secrets)

    # Its line in the access log.

    def record(self, duration_s: float, last: Attempt | None) -> None:
        """Once it is over, where anybody wants records. `last`: the try that was under way, if there was one."""
        request, recorder, plan, service = self.request, self.runtime.recorder, self.plan, self.service
        trace = trace_id(request)
        logging = None
        taken = True
        if plan is not None and service is not None:
            flagged = is_fault(self.flag)
            logging = plan.logging
            if logging is not None:
                chance = chance_of(trace or self.request_id)
                taken = logging.takes(self.status, flagged, duration_s, request.target, chance)
            watched = plan.watched.logging if plan.watched is not None else None
            if watched is not None and plan.watched is not None:
                chance = chance_of(trace or self.request_id)
                would = watched.takes(self.status, flagged, duration_s, request.target, chance)
                key = plan.watched.policies["log"].key
                service.stats.note_audit("log", key, RECORDED[taken], RECORDED[would])
        user_agent = b""
        headers: list[tuple[bytes, bytes]] | None = None
        for field in request.fields:
            name = field.name
            if name == b"user-agent":
                user_agent = field.value[:MAX_USER_AGENT]
                if logging is None:
                    break
            if logging is not None and name in logging.headers:
                if headers is None:
                    headers = []
                hidden = logging.hides(name) or self.is_secret(name.decode("latin-1"))
                headers.append((name, HIDDEN if hidden else field.value[:MAX_HEADER]))
        tapped = self.tapped
        if tapped is not None:
            self._tell_rest(tapped)
        recorder.record(
            (
                recorder.epoch + self.started,
                self.inbound,
                self.caller if self.stranger is None else self.stranger.id,
                service.name if service is not None else "",
                self.endpoint.id if self.endpoint is not None else "",
                request.method,
                request.host,
                self.recorded_target(),
                self.status,
                duration_s,
                self.bytes_in,
                self.bytes_out,
                self.attempts,
                self.request_id,
                self.why,
                self.down.peer.address,
                "HTTP/1.0" if request.http10 else "HTTP/1.1",
                user_agent,
                self.flag,
                trace,
                self.answered_at - self.started if self.answered_at >= 0.0 else -1.0,
                last.queue_s if last is not None else 0.0,
                last.connect_s if last is not None else 0.0,
                last.tls_s if last is not None else 0.0,
                self._verdicts,
                self._failed,
                headers,
                logging,
            ),
            self.reactor.now,
            taken,
            tapped,
        )
