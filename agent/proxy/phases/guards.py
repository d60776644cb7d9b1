# mypyc: compiled
"""A kind that only says whether a request may pass: one phase for all of them, and for all levels of one. `authn`
and `authz` have phases of their own: the one since it hands claims on, the other since it counts what it
lets pass too, and since callers' agents may ask it as well."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Refuse, Verdict
from agent.proxy.report.story import Entry, InForce, entry, no_service
from agent.proxy.table.lasting import Lasting
from policies.decision import Guard
from policies.kinds.authn import decide as authn
from policies.kinds.authz.decide import SAID, Compiled, Ruling

ABSENT: Final = b"www-authenticate: Bearer\r\n"
INVALID: Final = b'www-authenticate: Bearer error="invalid_token"\r\n'
_NOBODY: Final[dict[str, str]] = {}


class Level:
    """One document."""

    __slots__ = ("guard", "in_force")

    def __init__(self, in_force: InForce, guard: Guard) -> None:
        self.in_force = in_force
        self.guard = guard


class Guards(Phase):
    """Refuses what any of the documents does not let pass."""

    __slots__ = ("levels",)

    def __init__(self, kind: str, state: Lasting, in_force: InForce, levels: Sequence[Level]) -> None:
        """`levels`: the most specific first; more than one where the kind's documents of every level apply."""
        super().__init__(kind, "admit", state, in_force)
        self.guards = True
        self.levels = tuple(levels)

    def decide(self, subject: Subject) -> Verdict | None:
        """As the documents say."""
        view = subject.view
        for level in self.levels:
            denied = level.guard.decide(view)
            if denied is not None:
                refusal = Refusal(denied.status, self.kind, denied.reason, denied.retry_after_s, unsent=True)
                said = no_service(subject.request.host) if denied.hidden else None
                return Refuse(refusal, what=denied.rule, by=level.in_force, said=said)
        return None

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Why not."""
        if isinstance(verdict, Refuse):
            return entry(verdict.by, self.name, self.kind, f"refused by {verdict.what}", verdict.refusal.reason)
        others = [level.in_force.key for level in self.levels if level.in_force is not self.in_force]
        return self.entry("goes on", f"it may pass, by {' and '.join(others)} too" if others else "it may pass")


class Rules:
    """One document."""

    __slots__ = ("compiled", "in_force")

    def __init__(self, in_force: InForce, compiled: Compiled) -> None:
        self.in_force = in_force
        self.compiled = compiled


class Authorization(Phase):
    """Refuses what any of the documents does not let pass, and says nothing of them to whoever calls."""

    __slots__ = ("_early", "levels")

    def __init__(self, state: Lasting, in_force: InForce, levels: Sequence[Rules], *, early: bool = False) -> None:
        """`levels`: the most specific first. `early`: at the callers', to save the trip; the agent beside the instance
        asks again, and counts what passes."""
        super().__init__("authz", "admit", state, in_force)
        self.guards = True
        self._early = self.sees_rewritten = early
        self.levels = tuple(levels)

    def decide(self, subject: Subject) -> Verdict | None:
        """As the rules say."""
        view, stats = subject.view, self.state.stats
        for level in self.levels:
            ruling = level.compiled.judge(view)
            if not self.audit and not (self._early and ruling.allows):
                stats.note_authorized(ruling.counted)
            if not ruling.allows:
                return _refuse(level, ruling)
        return None

    def peek(self, subject: Subject) -> Verdict | None:
        """Counts nothing."""
        view = subject.view
        for level in self.levels:
            ruling = level.compiled.judge(view)
            if not ruling.allows:
                return _refuse(level, ruling)
        return None

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Which rule."""
        if isinstance(verdict, Refuse):
            return entry(verdict.by, self.name, self.kind, f"denied by {verdict.what}", verdict.refusal.reason)
        view = subject.view
        rules = [(level.in_force.key, level.compiled.judge(view).rule) for level in self.levels]
        reason = "; ".join([f"policies/authz/{key}: {rule}" for key, rule in rules])
        return self.entry(f"allowed by {rules[0][1]}", reason)


def _refuse(level: Rules, ruling: Ruling) -> Refuse:
    refusal = Refusal(403, "authz", ruling.reason, unsent=True)
    return Refuse(refusal, what=ruling.rule, by=level.in_force, said=Refusal(403, "authz", SAID, unsent=True))


class Issuers:
    """One document."""

    __slots__ = ("compiled", "in_force")

    def __init__(self, in_force: InForce, compiled: authn.Compiled) -> None:
        self.in_force = in_force
        self.compiled = compiled


class Authentication(Phase):
    """Refuses whose token does not count by each of the documents. What it lets pass has the claims of its token from
    then on, for the phases behind it: those that each document has verified, so that a more specific one adds nothing
    to what a wider one has not seen. One that is only watched gives no claim to anybody."""

    __slots__ = ("_early", "levels")

    def __init__(self, state: Lasting, in_force: InForce, levels: Sequence[Issuers], *, early: bool = False) -> None:
        """`levels`: the most specific first. `early`: at the callers'; the agent beside the instance asks again, and
        counts what passes."""
        super().__init__("authn", "admit", state, in_force)
        self.guards = True
        self._early = early
        self.levels = tuple(levels)

    def decide(self, subject: Subject) -> Verdict | None:
        """As the documents say."""
        return self._judge(subject, counts=not self.audit)

    def peek(self, subject: Subject) -> Verdict | None:
        """Counts nothing."""
        return self._judge(subject, counts=False)

    def _judge(self, subject: Subject, *, counts: bool) -> Verdict | None:
        view, now_s = subject.view, time.time()
        supposed = subject.supposed
        held: dict[str, str] | None = None
        for level in self.levels:
            try:
                found = supposed if supposed is not None else level.compiled.claims(view, now_s)
            except authn.Invalid as invalid:
                if counts:
                    self._count(level, invalid.verdict)
                return _challenge(level, "invalid token", str(invalid), INVALID)
            verdict = authn.ABSENT if found is None else authn.VALID
            refused = found is None and level.compiled.required
            if counts and (refused or not self._early):
                self._count(level, verdict)
            if refused:
                return _challenge(level, "no token", "it needs a token", ABSENT)
            held = _both(held, _NOBODY if found is None else found)
        if not self.audit:
            subject.bear(held)
        return None

    def _count(self, level: Issuers, verdict: str) -> None:
        self.state.stats.note_authenticated(f"{level.in_force.key}\t{verdict}")

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Whether there is a token; what is in it only to who operates."""
        if isinstance(verdict, Refuse):
            return entry(verdict.by, self.name, self.kind, f"refused by {verdict.what}", verdict.refusal.reason)
        if self.audit:
            return self.entry("goes on", "its token counts, or it needs none")
        if not subject.claims:
            return self.entry("goes on", "without a token")
        what = "taken for one with a token" if subject.supposed is not None else "its token counts"
        if subject.shows_claims:
            what += f": {_shown(subject.claims)}"
        others = [level.in_force.key for level in self.levels if level.in_force is not self.in_force]
        return self.entry("goes on", f"{what}, by {' and '.join(others)} too" if others else what)


def _both(held: dict[str, str] | None, found: dict[str, str]) -> dict[str, str]:
    """What all have verified so far."""
    if held is None:
        return found
    return {name: value for name, value in held.items() if found.get(name) == value}


def _shown(claims: dict[str, str]) -> str:
    return ", ".join([f"{name}={value[:100]}" for name, value in claims.items()])[:1000]


def _challenge(level: Issuers, what: str, reason: str, challenge: bytes) -> Refuse:
    whole = f"policies/authn/{level.in_force.key}: {reason}"
    said = Refusal(401, "authn", what, unsent=True)
    return Refuse(
        Refusal(401, "authn", whole, unsent=True),
        [challenge],
        what=what.replace(" ", "-"),
        by=level.in_force,
        said=said,
    )
