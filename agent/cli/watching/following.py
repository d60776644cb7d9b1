"""Updates of etcd in, lines out: what changed, and how it converges. Pure.

Laws
- What stood at the beginning is told of by a number, and so is what stands in another etcd: only changes are lines.
- A line is made only where there is room for it; what is not told of is counted, and waited for all the same.
- Time is handed in: seconds since 1970 for people, monotonic seconds for how long something took.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from agent.cli.watching.changes import ACTED_ON, Judge, Standing, Told
from agent.cli.watching.convergence import Behind, Convergence, Put, Reached
from agent.cli.watching.line import MOST_LISTED, Line, listed, named
from agent.cli.watching.outgoing import Outgoing
from agent.cli.watching.selection import Selection
from registry.keys import Key, Keys, Room
from registry.mirror import Update
from registry.records import Ack, Malformed, decode
from registry.store import Change

RESUMED: Final = (
    "some of the history is missing: what follows is how it stands now; what came and went meanwhile is not known"
)
REFUSAL_S: Final = 0.3


class Following:
    """What somebody who watches has been told, and has yet to be."""

    def __init__(self, mesh: str, selection: Selection, judge: Judge) -> None:
        self._keys = Keys(mesh)
        self._selection = selection
        self._judge = judge
        self._standing = Standing(self._keys, judge)
        self._convergence = Convergence()
        self._outgoing = Outgoing()
        self._reached: list[tuple[float, Reached]] = []
        """Since when."""
        self._begun = False
        self.ended: bool | None = None
        """Whether what came first is in force everywhere; None: it is not known yet."""

    @property
    def begun(self) -> bool:
        """Whether it is known what stands."""
        return self._begun

    @property
    def waits(self) -> bool:
        """Whether something that was told of is not in force everywhere yet."""
        return self._convergence.waits

    def hear(self, update: Update, at: float, now: float) -> None:
        """What changed."""
        if not self._begun or update.another:
            self._begin(update, at, now)
            return
        if update.resync and update.changes:
            self._note(Line(at, update.revision, "etcd", RESUMED, {"missed": True}, note=True), now)
        for _, of_revision in groupby(update.changes, key=lambda change: change.revision):
            for change in sorted(of_revision, key=self._is_health):
                self._take(change, at, now)
        self._reached += ((now, reached) for reached in self._convergence.reached(now))

    def say(self, text: str, at: float, now: float, **more: Any) -> None:
        """Something about the watching itself."""
        self._note(Line(at, 0, "etcd", text, more, note=True), now)

    def take(self, at: float, now: float, *, all_of_it: bool = False) -> list[Line]:
        """The lines that are to be printed by now."""
        self._tell_reached(at, now)
        behind = self._convergence.behind(now)
        if behind is not None:
            self._outgoing.add(_behind_line(behind, at), now)
        return self._outgoing.take(at, now, all_of_it=all_of_it)

    def _begin(self, update: Update, at: float, now: float) -> None:
        """Nothing is known from before, or it counts no more."""
        self._standing = Standing(self._keys, self._judge)
        self._convergence.clear()
        self._reached.clear()
        for change in update.changes:
            self._note_words(change)
            self._standing.enter(change)
        if update.another:
            text = f"this is another etcd ({update.another}); what is not in force yet is waited for no more"
            self._note(Line(at, update.revision, "etcd", text, {"another": update.another}, note=True), now)
        self._begun = True
        self._note(self._first_line(update.revision, at), now)

    def _first_line(self, revision: int, at: float) -> Line:
        convergence, (stand, newest) = self._convergence, self._standing.counted()
        agents = convergence.agents
        behind = {host: convergence.acks.get(host, 0) for host in agents}
        lagging = {host: runs for host, runs in sorted(behind.items()) if runs < newest}
        counts = {
            "policies": stand[Room.POLICIES],
            "watched": stand[Room.AUDITS],
            "instances": stand[Room.INSTANCES],
            "agents": len(agents),
        }
        text = (
            f"watching the mesh {self._keys.mesh}: {_counted(counts['policies'], 'policy', 'policies')}, "
            f"{_counted(counts['instances'], 'instance', 'instances')}, "
            f"{_counted(len(agents), 'agent', 'agents')}{f' ({named(sorted(agents))})' if agents else ''}"
        )
        if lagging:
            text += f"; not yet at revision {newest}: {_laggards(lagging)}"
        return Line(at, revision, "etcd", f"{text}; Ctrl-C ends it", {"stands": counts}, note=True)

    def _is_health(self, change: Change) -> bool:
        """Told behind what else its revision changed: an instance comes before anything is said of it."""
        key = self._keys.parse(change.key)
        return isinstance(key, Key) and key.room is Room.HEALTH

    def _take(self, change: Change, at: float, now: float) -> None:
        self._note_words(change)
        what = self._standing.wants(change, self._selection)
        if what is None:
            self._standing.enter(change)
            return
        key = self._keys.parse(change.key)
        room = key.room if isinstance(key, Key) else Room.POLICIES
        if self._outgoing.has_room(what, now):
            told = self._standing.tell(change)
            if told is None:
                return
            self._outgoing.add(_change_line(told, change.revision, at), now)
            name, put = told.key, told.put
        elif self._standing.enter(change):
            self._outgoing.leave_out(what, change.revision)
            name, put = "", None
        else:
            return
        if room in ACTED_ON:
            self._convergence.changed(change.revision, name, put, now)

    def _note_words(self, change: Change) -> None:
        """What agents say: that they live, and what they run."""
        key = self._keys.parse(change.key)
        if not isinstance(key, Key):
            return
        if key.room is Room.AGENTS:
            if change.value is None:
                self._convergence.gone(key.first)
            else:
                self._convergence.lives(key.first)
        elif key.room is Room.ACKS:
            self._note_ack(key.first, change.value)

    def _note_ack(self, host: str, value: bytes | None) -> None:
        try:
            if value is None:
                self._convergence.forgets(host)
            else:
                self._convergence.runs(host, decode(Ack, value).revision)
        except Malformed:
            self._convergence.forgets(host)

    def _note(self, line: Line, now: float) -> None:
        self._outgoing.add(line, now)

    # What all agents run.

    def _tell_reached(self, at: float, now: float) -> None:
        """Documents by themselves, a moment late, for a refusal may come behind agents' word; what else has come into
        force everywhere since the last time together."""
        others: list[Reached] = []
        early, self._reached = self._reached, []
        for since, each in early:
            if each.waited.puts and now - since < REFUSAL_S:
                self._reached.append((since, each))
            elif each.waited.puts:
                self._outgoing.add(self._reached_line([each], at), now)
            else:
                others.append(each)
        if others:
            self._outgoing.add(self._reached_line(others, at), now)

    def _reached_line(self, reached: list[Reached], at: float) -> Line:
        waited = [each.waited for each in reached]
        agents, after_s = reached[-1].agents, max(each.after_s for each in reached)
        keys = list(dict.fromkeys(key for each in waited for key in each.keys if key))
        changes = sum(each.changes for each in waited)
        puts = [put for each in waited for put in each.puts]
        refused = [put.key for put in puts if self._is_refused(put)]
        replaced = {put.key: now for put in puts if (now := self._standing.revision_of(put.key)) != put.revision}
        lacking = [put.not_enforced for put in puts if put.not_enforced and put.key not in refused]
        first, last = waited[0].first, waited[-1].last
        in_force = bool(agents) and not refused and not lacking
        if self.ended is None:
            self.ended = in_force
        more = {
            "first": first,
            "changes": changes,
            "keys": keys[:MOST_LISTED],
            "agents": agents,
            "of": agents,
            "after_s": round(after_s, 3),
            "refused": refused,
            "replaced": replaced,
            "not_enforced": lacking,
        }
        text = _reached_text(agents, after_s, _about(keys, changes), refused, replaced, lacking)
        return Line(at, last, "in_force" if in_force else "reached", text, more)

    def _is_refused(self, put: Put) -> bool:
        return bool(put.refused) or self._standing.refused_at(put.key) == put.revision


def _change_line(told: Told, revision: int, at: float) -> Line:
    return Line(at, revision, told.what, told.text, {"change": told.change, **told.more})


def _behind_line(behind: Behind, at: float) -> Line:
    runs, lagging, waited = behind.runs, behind.lagging, behind.waited
    agents = len(runs) + len(lagging)
    names = [key for key in waited.keys if key]
    text = f"on {len(runs)} of {_hosts(agents)} after {behind.since_s:.1f} s{f' ({named(runs)})' if runs else ''}; "
    text += f"{_laggards(lagging)}: {_about(names, waited.changes)}"
    if behind.later:
        text += f"; {_counted(behind.later, 'later change waits', 'later changes wait')}, too"
    more = {
        "first": waited.first,
        "changes": waited.changes,
        "keys": names,
        "agents": len(runs),
        "of": agents,
        "after_s": round(behind.since_s, 3),
        "runs": listed(runs),
        "lagging": {host: lagging[host] for host in listed(lagging)},
        "later": behind.later,
    }
    return Line(at, waited.last, "lagging", text, more)


def _reached_text(
    agents: int, after_s: float, about: str, refused: list[str], replaced: dict[str, int], lacking: list[str]
) -> str:
    if not agents:
        return f"nobody, for no agent is alive: {about}"
    everywhere = f"{agents} of {_hosts(agents)} after {after_s:.1f} s"
    text = f"{everywhere}, and is refused: {named(refused)}" if refused else f"on {everywhere}: {about}"
    if replaced:
        later = (f"{key} by revision {at}" if at else f"{key}, which was removed" for key, at in replaced.items())
        text += f"; replaced since: {named(list(later))}"
    return "; ".join([text, *lacking])


def _about(names: list[str], changes: int) -> str:
    count = _counted(changes, "change", "changes")
    if not names:
        return count
    return named(names) if changes <= len(names) else f"{named(names)} ({count})"


def _laggards(lagging: dict[str, int]) -> str:
    said = [f"{host} runs {runs}" if runs else f"{host} has not said what it runs" for host, runs in lagging.items()]
    return named(said)


def _hosts(count: int) -> str:
    return f"{count} host{'s' * (count != 1)}"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
