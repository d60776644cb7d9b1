# mypyc: compiled
"""What a request tells the audit log: once it is over; or, where its service's document says so, before it is handed on
or answered, and then it waits until that is on disk.

Laws
- What nobody let in is recorded, whether a document asks for it or not (`DENYING`).
- Who records is who decides: the agent beside the instance, and the caller's where nothing went further.
- A request that waits for its record is recorded once, by what was decided; how it ended is in the access log.
"""

from __future__ import annotations

from typing import Any, Final

from agent.audit.draft import DENYING, Said
from agent.proxy.control.recording import Word
from agent.proxy.messages.answers import Refusal
from agent.proxy.messages.head import RequestHead
from agent.proxy.phases.verdict import Refuse
from agent.proxy.request.audit.recorded import Recorded
from agent.proxy.runtime import Runtime
from agent.proxy.stream import Stream
from agent.proxy.table.plan import Plan
from agent.proxy.table.service import Service
from policies.kinds.audit.decide import Compiled

NOTHING_KEPT: Final = "its audit record is not on disk"


class _Waiting(Word):
    """A request that waits for its record, and for nothing else."""

    __slots__ = ("_request", "denies", "refuse")

    def __init__(self, request: Accountable, refuse: Refuse | None, denies: bool) -> None:
        super().__init__()
        self._request = request
        self.refuse = refuse
        """What it is answered; None: it is handed on."""
        self.denies = denies
        """Whether it is refused where there is no record."""

    def on_recorded(self, reason: str) -> None:
        """It goes on."""
        self._request.on_word(self, reason)

    def on_deadline(self, now: float) -> None:
        """Control says nothing."""
        self._request.runtime.recordings.late(self)


class Accountable(Recorded):
    """A request that is accounted for."""

    __slots__ = ("_accounted", "_word", "denied", "withheld")

    def __init__(self, runtime: Runtime, down: Stream, request: RequestHead) -> None:
        super().__init__(runtime, down, request)
        self.withheld: Service | None = None
        """A service that was kept from it, as if there were none of its name."""
        self.denied: Refuse | None = None
        """What it was refused by, if it was."""
        self._word: _Waiting | None = None
        self._accounted = False
        """Whether it was decided already if it is recorded, and done."""

    @property
    def auditing(self) -> Compiled | None:
        """What documents want of it."""
        plan = self._asked_plan()
        return plan.auditing if plan is not None else None

    def _asked_plan(self) -> Plan | None:
        """Of the service that it is for, or was to be."""
        if self.target is not None:
            return self.target.plan
        return self.plan if self.plan is not None or self.withheld is None else self.withheld.plan

    @property
    def accounts(self) -> bool:
        """Whether any document says something of it."""
        plan = self.target.plan if self.target is not None else self.plan
        return plan is not None and plan.accounts

    # Once it is over.

    def account(self, duration_s: float) -> None:
        """Have it recorded, if it is to be."""
        self._account_watched()
        auditing, refuse = self.auditing, self.denied
        denied = refuse is not None and refuse.refusal.policy in DENYING
        if self._accounted or not (denied or self._is_taken(auditing)):
            return
        said = self._said(self._event(), auditing)
        said.data["status"] = self.status
        said.data["duration_s"] = round(duration_s, 6)
        ring = self.runtime.audit
        if auditing is None:
            ring.add_automatic(said, self.reactor.now)
        else:
            ring.add(said)

    def _account_watched(self) -> None:
        """Of a document that is only watched nothing is recorded: what it would have recorded is counted."""
        plan, endpoint = self.target.plan if self.target is not None else self.plan, self.endpoint
        if plan is None or plan.watched is None or (endpoint is not None and not self.is_here(endpoint)):
            return
        watched, refuse = plan.watched.auditing, self.denied
        if watched is not None and self.service is not None:
            denied = refuse is not None and refuse.refusal.policy in DENYING
            would = denied or watched.takes(self._was_let_in(), self.rng)
            done = denied or self._is_taken(self.auditing)
            key = plan.watched.policies["audit"].key
            self.service.stats.note_audit("audit", key, _WORDS[done], _WORDS[would])

    def _is_taken(self, auditing: Compiled | None) -> bool:
        """Whether a document wants it, that nobody denied."""
        endpoint = self.endpoint
        if auditing is None or (endpoint is not None and self.attempts and not self.is_here(endpoint)):
            return False
        return auditing.takes(self._was_let_in(), self.rng)

    def _was_let_in(self) -> bool:
        return self.attempts > 0

    def _event(self) -> str:
        refuse = self.denied
        if refuse is not None and refuse.refusal.policy in DENYING:
            return f"{refuse.refusal.policy}.denied"
        return "request.allowed" if self._was_let_in() or refuse is None else "request.refused"

    def on_cut_off(self, verdict: Refuse) -> None:
        """It is recorded again, as denied."""
        self.denied, self._accounted = verdict, False

    # Before it goes on.

    def waits_for_record(self, plan: Plan) -> bool:
        """Whether it goes on only when its record is on disk, or was refused since there is none."""
        auditing = plan.auditing
        assert auditing is not None
        if not auditing.sync or self._accounted or self.endpoint is None or not self.is_here(self.endpoint):
            return False
        self._accounted = True
        if not auditing.takes(True, self.rng):
            return False
        reason = self._confirm(self._said("request.allowed", auditing), None, auditing.denies)
        if reason and auditing.denies:
            self._refuse_unrecorded(reason)
        return not reason or auditing.denies

    def answers_later(self, refuse: Refuse) -> bool:
        """Whether it is refused only when that is on disk."""
        self.denied = refuse
        auditing = self.auditing
        if auditing is None or not auditing.sync or self._accounted:
            return False
        if refuse.refusal.policy not in DENYING and not auditing.takes(False, self.rng):
            return False
        self._accounted = True
        said = self._said(self._event(), auditing)
        said.data["status"] = refuse.refusal.status
        return not self._confirm(said, refuse, False)

    def _confirm(self, said: Said, refuse: Refuse | None, denies: bool) -> str:
        """Why control cannot even be asked; empty: it waits."""
        word = _Waiting(self, refuse, denies)
        reason = self.runtime.recordings.ask(word, said)
        if not reason:
            self._word = word
        return reason

    def on_word(self, word: _Waiting, reason: str) -> None:
        """Its record is on disk; or nobody knows that it is."""
        self._word = None
        if self.over:
            return
        if word.refuse is not None:
            self.refuse(word.refuse)
        elif reason and word.denies:
            self._refuse_unrecorded(reason)
        else:
            assert self.endpoint is not None
            self.send(self.endpoint)

    def _refuse_unrecorded(self, reason: str) -> None:
        self.let_go()
        self.refuse(Refuse(Refusal(503, "audit", f"{NOTHING_KEPT}: {reason}", 1, unsent=True)))

    def forget_word(self) -> None:
        """It waits no longer."""
        word, self._word = self._word, None
        if word is not None:
            self.runtime.recordings.forget(word)
            self.let_go()

    # What is told.

    def _said(self, event: str, auditing: Compiled | None) -> Said:
        view, request, refuse = self.view, self.request, self.denied
        target = self.target if self.target is not None else self.service
        if target is None:
            target = self.withheld
        data: dict[str, Any] = {
            "service": target.name if target is not None else "",
            "caller": self.caller if self.stranger is None else self.stranger.id,
            "principal": view.principal,
            "method": request.method.decode("latin-1")[:64],
            "request_id": self.request_id.decode("latin-1")[:256],
            "inbound": self.inbound,
        }
        personal: dict[str, str] = {}
        if target is None:
            personal["host"] = request.host.decode("latin-1")[:256]
        if self.endpoint is not None:
            data["endpoint"] = self.endpoint.id
        self._tell_decision(data, personal, refuse)
        hidden = auditing.hidden if auditing is not None else _NOTHING
        if "client" not in hidden:
            personal["client"] = self.down.peer.address
        if "path" not in hidden:
            path = view.path
            template = auditing.path(path) if auditing is not None else path
            if template is path:
                personal["path"] = path
            else:
                data["path"] = template
        if auditing is None:
            return Said(event, self._time(), data, personal)
        for name in auditing.claims:
            claim = view.claim(name)
            if claim is not None:
                personal[f"claim.{name}"] = claim if claim.isascii() else claim.encode("utf-8", "replace").decode()
        for name in auditing.headers:
            value = None if self.is_secret(name) else view.header(name)
            if value is not None:
                personal[f"header.{name}"] = value
        return Said(event, self._time(), data, personal, auditing.keep_s, auditing.by_default)

    def _time(self) -> float:
        return self.runtime.audit.epoch + self.started

    def _tell_decision(self, data: dict[str, Any], personal: dict[str, str], refuse: Refuse | None) -> None:
        """What was decided, and by which document."""
        plan = self._asked_plan()
        kind = "authz"
        if refuse is None:
            data["decision"] = "allowed"
        else:
            kind = refuse.refusal.policy
            data["decision"] = "denied" if kind in DENYING else "refused"
            data["rule"] = refuse.what
            personal["reason"] = refuse.refusal.reason
        by = refuse.by if refuse is not None else None
        if by is None and plan is not None:
            by = plan.policies.get(kind)
        data["policy"] = f"{kind}/{by.key}" if by is not None else kind if refuse is not None else ""
        data["revision"] = by.revision if by is not None else 0


_WORDS: Final = ("not recorded", "recorded")
_NOTHING: Final[frozenset[str]] = frozenset()
