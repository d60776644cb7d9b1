# mypyc: compiled
"""A kind that only says whether a request may pass: one phase for all of them, and for all levels of one. `authn` has a
phase of its own, since it hands claims on; so has `authz` (`agent.proxy.phases.authorization`)."""

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
from policies.claim import is_the_same
from policies.decision import Guard
from policies.kinds.authn import decide as authn

RETRY_AFTER_S: Final = 5
"""For an issuer's keys to come."""
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
                return _challenge(level, invalid)
            verdict = authn.ABSENT if found is None else authn.VALID
            refused = found is None and level.compiled.required
            if counts and (refused or not self._early):
                self._count(level, verdict)
            if refused:
                return _absent(level)
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
        kept = " and ".join(dict.fromkeys([level.compiled.wanted for level in self.levels]))
        what = "taken for one with a token" if subject.supposed is not None else f"its {kept} counts"
        if subject.shows_claims:
            what += f": {_shown(subject.claims)}"
        others = [level.in_force.key for level in self.levels if level.in_force is not self.in_force]
        return self.entry("goes on", f"{what}, by {' and '.join(others)} too" if others else what)


def _both(held: dict[str, str] | None, found: dict[str, str]) -> dict[str, str]:
    """What all have verified so far."""
    if held is None:
        return found
    return {name: value for name, value in held.items() if is_the_same(found.get(name), value)}


def _shown(claims: dict[str, str]) -> str:
    return ", ".join([f"{name}={value[:100]}" for name, value in claims.items()])[:1000]


def _absent(level: Issuers) -> Refuse:
    """It shows nothing, and has to."""
    wanted = level.compiled.wanted
    challenge = b"www-authenticate: %b\r\n" % level.compiled.scheme.encode()
    return _refused(level, 401, f"no {wanted}", f"it needs {'an' if wanted[0] == 'A' else 'a'} {wanted}", challenge)


def _challenge(level: Issuers, invalid: authn.Invalid) -> Refuse:
    """What it shows does not count, or cannot be judged."""
    bearer = level.compiled.scheme == "Bearer"
    challenge = b'www-authenticate: Bearer error="invalid_token"\r\n' if bearer else b"www-authenticate: ApiKey\r\n"
    return _refused(level, invalid.status, invalid.what, str(invalid), challenge)


def _refused(level: Issuers, status: int, what: str, reason: str, challenge: bytes) -> Refuse:
    whole = f"policies/authn/{level.in_force.key}: {reason}"
    retry_after_s = RETRY_AFTER_S if status == 503 else 0
    return Refuse(
        Refusal(status, "authn", whole, retry_after_s, unsent=True),
        [challenge] if status == 401 else [],
        what=what.replace(" ", "-"),
        by=level.in_force,
        said=Refusal(status, "authn", what, retry_after_s, unsent=True),
    )
