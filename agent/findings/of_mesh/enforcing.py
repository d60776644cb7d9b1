"""Which live agents cannot enforce a document, because their version does not know what it uses, or their host has not
the package that it needs.

An agent of an older version refuses what it does not know, and goes on with what was in force on its host. It tells in
`versions/<host>` what it knows; agents of versions that tell nothing are named as such, and nothing is said for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from policies.vocabulary import Vocabulary
    from registry.census import Census

    Known: TypeAlias = tuple[tuple[str, ...], str, dict[str, Vocabulary], tuple[str, ...]]
    """Hosts whose agents know the same, their version, what that is, by kind, and which extras they have not."""

ROOMS: Final = ("agents", "acks", "versions")
"""Of the census, besides the policies."""
MOST_NAMED: Final = 5


class Text(msgspec.Struct, frozen=True):
    """A document as it stands in etcd, or will."""

    kind: str
    service: str
    text: bytes
    watched: bool = False
    """Whether it stands under `audits/`."""

    @property
    def key(self) -> str:
        return f"{'audits/' * self.watched}{self.kind}/{self.service}"


class Unable(msgspec.Struct, frozen=True):
    """Agents of one version that cannot enforce a document."""

    policy: str
    hosts: tuple[str, ...]
    version: str
    unknown: tuple[str, ...]
    """What they do not know of it; empty: the whole kind."""
    lacking: tuple[str, ...] = ()
    """Packages that it needs, and they do not have, by the extras that bring them; then it is not what they know."""

    def __str__(self) -> str:
        *room, kind, _ = self.policy.split("/")
        many = len(self.hosts) > 1
        if self.lacking:
            install = f"pip install 'shoal-mesh[{','.join(self.lacking)}]'"
            return (
                f"{self.policy} is not {'watched' if room else 'enforced'} by {_named(self.hosts)}, which "
                f"{'have' if many else 'has'} not what {', '.join(self.unknown)} needs: {install}"
            )
        what = f"{', '.join(self.unknown)} of {kind}" if self.unknown else f"the kind {kind}"
        return (
            f"{self.policy} is not {'watched' if room else 'enforced'} by {_named(self.hosts)} ({self.version}), which "
            f"{'do' if many else 'does'} not know {what}"
        )


def unable(census: Census, documents: Iterable[Text]) -> list[Unable]:
    """By document and version. What all of them and this version refuse is a wrong document, and not asked about."""
    from policies.catalogue import parse
    from policies.language.document import Invalid

    versions = _by_knowledge(census)
    found: list[Unable] = []
    for document in documents:
        lacking = _lacking(document, versions)
        refused = len(lacking) == len(versions) and isinstance(
            parse(document.kind, document.service, document.text), Invalid
        )
        found += [] if refused else lacking
    return found


def _lacking(document: Text, versions: Sequence[Known]) -> list[Unable]:
    from policies.catalogue import BY_NAME
    from policies.language.plain import Flaw, load
    from policies.vocabulary import extras, unknown, vocabulary

    try:
        raw = load(document.text)
    except Flaw:
        return []
    kind = document.kind
    ours = vocabulary(kind) if kind in BY_NAME else None
    needed = extras(kind, raw)
    found: list[Unable] = []
    for hosts, version, kinds, absent in versions:
        missing = unknown(raw, kinds[kind], ours) if kind in kinds else []
        if missing or kind not in kinds:
            found.append(Unable(document.key, hosts, version, tuple(missing)))
            continue
        lacking = {path: extra for path, extra in needed.items() if extra in absent}
        if lacking:
            found.append(Unable(document.key, hosts, version, tuple(lacking), tuple(dict.fromkeys(lacking.values()))))
    return found


def silent(census: Census) -> list[str]:
    """Live agents, of those that have said what they run, that say nothing of what their version knows."""
    return sorted(host for host in census.agents if host in census.acks and host not in census.versions)


def silence(census: Census) -> str:
    """Those as a sentence; empty where there is none."""
    hosts = silent(census)
    if not hosts:
        return ""
    told = sorted({census.agents[host].version for host in hosts} - {""})
    version = f" ({', '.join(told)})" if told else ""
    says, its = ("say", "their versions know") if len(hosts) > 1 else ("says", "its version knows")
    return f"{_named(hosts)}{version} {says} nothing of what {its}: whether policies are enforced there is not known"


def _by_knowledge(census: Census) -> list[Known]:
    from policies.vocabulary import Vocabulary

    hosts: dict[tuple[str, bytes, tuple[str, ...]], list[str]] = {}
    for host in sorted(census.agents.keys() & census.versions.keys()):
        told = census.versions[host]
        kinds, absent = msgspec.json.encode(told.kinds, order="sorted"), tuple(sorted(told.lacks))
        hosts.setdefault((told.version, kinds, absent), []).append(host)
    found = []
    for (version, kinds, absent), names in hosts.items():
        try:
            known = msgspec.json.decode(kinds, type=dict[str, Vocabulary])
        except msgspec.ValidationError:
            continue  # of a version that tells it in another way
        found.append((tuple(names), version, known, absent))
    return found


def _named(hosts: Sequence[str]) -> str:
    shown = ", ".join(hosts[:MOST_NAMED])
    return f"{shown} and {len(hosts) - MOST_NAMED} more" if len(hosts) > MOST_NAMED else shown
