# mypyc: compiled
"""`authz`: it counts what it lets pass, too, its callers' agents may ask it as well, and it may have to ask others.

Laws
- The rules of all levels come first. Of what they let pass, those are asked whom a level names besides (Rego, an OPA),
  and each has to allow it. What is not answered yet waits (`Consult`), and is judged again from the first rule on.
- Where a request could be taken for another, each reading is asked about.
- What is decided is counted once, when it is decided.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.proxy.messages.answers import Refusal
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.subject import Subject
from agent.proxy.phases.verdict import Consult, Refuse, Verdict
from agent.proxy.report.story import Entry, InForce, entry
from agent.proxy.table.lasting import Lasting
from policies.kinds.authz.decide import SAID, TOO_MUCH, Compiled, taken_for
from policies.kinds.authz.judge import Answer, Judge, Ruling
from policies.request import RequestView


class Rules:
    """One document."""

    __slots__ = ("compiled", "in_force")

    def __init__(self, in_force: InForce, compiled: Compiled) -> None:
        self.in_force = in_force
        self.compiled = compiled


class Authorization(Phase):
    """Refuses what any of the documents does not let pass, and says nothing of them to whoever calls."""

    __slots__ = ("_asks", "_early", "levels")

    def __init__(self, state: Lasting, in_force: InForce, levels: Sequence[Rules], *, early: bool = False) -> None:
        """`levels`: the most specific first. `early`: at the callers', to save the trip; the agent beside the instance
        asks again, asks others besides its rules, and counts what passes."""
        super().__init__("authz", "admit", state, in_force)
        self.guards = True
        self._early = self.sees_rewritten = early
        self.levels = tuple(levels)
        self._asks = not early and any(bool(level.compiled.judges) for level in levels)

    def decide(self, subject: Subject) -> Verdict | None:
        """As the rules say."""
        if self._asks:
            return self._consult(subject, counts=not self.audit)
        view, stats = subject.view, self.state.stats
        for level in self.levels:
            ruling = level.compiled.judge(view)
            if not self.audit and not (self._early and ruling.allows):
                stats.note_authorized(ruling.counted)
                if level.compiled.errors:
                    self._count_errors(level.compiled)
            if not ruling.allows:
                return _refuse(level, ruling, view)
        return None

    def _count_errors(self, compiled: Compiled) -> None:
        for rule in compiled.errors:
            self.state.stats.note_authorized(f"{compiled.key}\t{rule}\tfailed")

    def peek(self, subject: Subject) -> Verdict | None:
        """Counts nothing."""
        if self._asks:
            return self._consult(subject, counts=False)
        view = subject.view
        for level in self.levels:
            ruling = level.compiled.judge(view)
            if not ruling.allows:
                return _refuse(level, ruling, view)
        return None

    def _consult(self, subject: Subject, *, counts: bool) -> Verdict | None:
        """As rules say, and those who are asked besides."""
        view, rulings = subject.view, []
        for level in self.levels:
            ruling = level.compiled.judge(view)
            rulings.append(ruling)
            if not ruling.allows:
                if counts:
                    self._count_errors(level.compiled)
                return self._decided(rulings, _refuse(level, ruling, view), counts)
        for level in self.levels:
            for judge in level.compiled.judges:
                answer = self._heard(judge, subject, counts)
                if isinstance(answer, Consult):
                    return answer
                rulings.append(answer.ruling)
                if not answer.ruling.allows:
                    return self._decided(rulings, _refuse(level, answer.ruling, None), counts)
        return self._decided(rulings, None, counts)

    def _decided(self, rulings: list[Ruling], verdict: Refuse | None, counts: bool) -> Refuse | None:
        if counts:
            if verdict is None:
                for level in self.levels:
                    self._count_errors(level.compiled)
            for ruling in rulings:
                self.state.stats.note_authorized(ruling.counted)
        return verdict

    def _heard(self, judge: Judge, subject: Subject, counts: bool) -> Answer | Consult:
        """What somebody says of a request, in each reading; or that he has to be asked."""
        view = subject.view
        others = taken_for(view, judge.asks)
        if others is None:
            return self._said(judge, view, subject, counts)
        if not others:
            return judge.answer(False, TOO_MUCH)
        found: Answer | Consult = judge.answer(False, "it is nothing")
        for other in others:
            found = self._said(judge, other, subject, counts)
            if isinstance(found, Consult) or not found.ruling.allows:
                return found
        return found

    def _said(self, judge: Judge, view: RequestView, subject: Subject, counts: bool) -> Answer | Consult:
        asked = judge.asked(view, self.state.name)
        outcome = "asked"
        answer = subject.heard(judge, asked)
        if answer is None and asked is not None:
            answer = judge.find(asked, subject.reactor.now)
            outcome = "remembered"
        if answer is None:
            return Consult(judge, asked)
        if counts:
            self.state.stats.note_judged(f"{judge.key}\t{judge.who}\t{'failed' if answer.failed else outcome}")
        return answer

    def tell(self, subject: Subject, verdict: Verdict | None) -> Entry:
        """Which rule, and who besides."""
        if isinstance(verdict, Refuse):
            return entry(verdict.by, self.name, self.kind, f"denied by {verdict.what}", verdict.refusal.reason)
        if isinstance(verdict, Consult):
            return self.entry("waits", f"policies/authz/{verdict.judge.key}: {verdict.judge.who} is asked")
        view = subject.view
        rules = [(level.in_force.key, level.compiled.judge(view).rule) for level in self.levels]
        said = [f"policies/authz/{key}: {rule}" for key, rule in rules]
        said += [level.compiled.unjudged() for level in self.levels if level.compiled.errors]
        if self._asks:
            for level in self.levels:
                for judge in level.compiled.judges:
                    answer = self._heard(judge, subject, False)
                    if isinstance(answer, Answer):
                        said.append(answer.ruling.reason)
        return self.entry(f"allowed by {rules[0][1]}", "; ".join(said))


def _refuse(level: Rules, ruling: Ruling, view: RequestView | None) -> Refuse:
    """`view`: what rules were held against; None: they let it pass."""
    taken = "" if view is None else level.compiled.taken(view)
    reason = f"{ruling.reason}: {taken}" if taken else ruling.reason
    if view is not None and level.compiled.errors:
        reason = f"{reason}; {level.compiled.unjudged()}"
    refusal = Refusal(403, "authz", reason, unsent=True)
    return Refuse(refusal, what=ruling.rule, by=level.in_force, said=Refusal(403, "authz", SAID, unsent=True))
