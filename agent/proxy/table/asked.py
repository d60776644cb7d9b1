# mypyc: compiled
"""What the documents of a service compile to: a phase for each that is asked about requests, and figures of others.

Made of those that are in force, and once more, with a book of their own, of those that are only watched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from agent.proxy.phases.authorization import Authorization, Rules
from agent.proxy.phases.breakers import Breakers
from agent.proxy.phases.closed import Closed, Shut
from agent.proxy.phases.copies import Copying
from agent.proxy.phases.faults import Faults
from agent.proxy.phases.guards import Authentication, Guards, Issuers, Level
from agent.proxy.phases.limits import Limits
from agent.proxy.phases.paths import Paths
from agent.proxy.phases.phase import Phase
from agent.proxy.phases.routes import Routes
from agent.proxy.phases.sheds import Sheds
from agent.proxy.report.story import InForce, Policies
from agent.proxy.table.lasting import Book, Lasting
from policies.catalogue import KINDS
from policies.decision import Guard
from policies.kind import Kind, Scope, Side
from policies.kinds.audit import decide as audit
from policies.kinds.audit.document import Audit
from policies.kinds.authn import decide as authn
from policies.kinds.authn.document import Authn
from policies.kinds.authn.keyring import Keyring
from policies.kinds.authz import decide as authz
from policies.kinds.authz.document import Authz
from policies.kinds.authz.judge import Judge
from policies.kinds.breaker import decide as breaker
from policies.kinds.breaker.document import Breaker
from policies.kinds.export import decide as export
from policies.kinds.export.document import Export
from policies.kinds.fault import decide as fault
from policies.kinds.fault.document import FaultPolicy
from policies.kinds.outlier import decide as outlier
from policies.kinds.outlier import ejector
from policies.kinds.outlier.document import Outlier
from policies.kinds.path import decide as path
from policies.kinds.path.document import PathPolicy
from policies.kinds.ratelimit import decide as ratelimit
from policies.kinds.ratelimit.document import RateLimit
from policies.kinds.route import decide as route
from policies.kinds.route.document import Route
from policies.kinds.shadow import decide as shadow
from policies.kinds.shadow.document import Shadow
from policies.kinds.shed import decide as shed
from policies.kinds.shed.document import Shed
from policies.kinds.tls import decide as tls
from policies.kinds.tls.document import TlsPolicy
from policies.kinds.trace import decide as trace
from policies.kinds.trace.document import Trace
from policies.language.document import Document

# Kinds that this module knows by name. Any other that requests meet is a guard (policies.decision.Guard).
_KNOWN: Final = frozenset(
    (
        *("path", "authn", "authz", "audit", "ratelimit", "fault", "route", "import", "timeout", "breaker"),
        *("outlier", "shed", "balance", "retry", "shadow", "trace"),
    )
)
_NOBODY: Final[frozenset[str]] = frozenset()
GUARDS: Final = tuple([kind for kind in KINDS if kind.side is not Side.ASIDE and kind.name not in _KNOWN])


class Ejection:
    """The figures of an `outlier` document."""

    __slots__ = ("in_force", "rules")

    def __init__(self, in_force: InForce, rules: ejector.Figures) -> None:
        self.in_force = in_force
        self.rules = rules


class Compiled:
    """What came of documents for patterns: one of them may come with a thousand services."""

    __slots__ = ("_made", "keyring")

    def __init__(self, keyring: Keyring | None = None) -> None:
        """`keyring`: the keys of issuers, as they are fetched."""
        self.keyring = Keyring() if keyring is None else keyring
        self._made: dict[tuple[str, str, str], tuple[Document, Any]] = {}

    def people(self, document: Any) -> authn.Compiled:
        """An `authn` document compiled, with the keys that are in force at any time."""
        return authn.compile(document, keyring=self.keyring)

    def once(self, kind: str, policies: Policies, make: Callable[[Any], Any]) -> Any:
        """A document compiled; the same one when it was compiled before. Never changed by those who use it."""
        return self.level(kind, policies[kind], make)

    def level(self, kind: str, policy: InForce, make: Callable[[Any], Any]) -> Any:
        """The same, of one of the documents that apply together."""
        if "*" not in policy.key:
            return make(policy.document)
        place = kind, policy.key, policy.mode
        known = self._made.get(place)
        if known is None or known[0] is not policy.document:
            known = self._made[place] = (policy.document, make(policy.document))
        return known[1]


class Asked:
    """Never changes."""

    __slots__ = (
        "auditing",
        "book",
        "breaker",
        "early",
        "ejection",
        "exports",
        "judges",
        "knowing",
        "limits",
        "met",
        "paths",
        "policies",
        "serving",
        "shadow",
        "shed",
        "tls",
        "tracing",
    )

    def __init__(
        self,
        state: Lasting,
        policies: Policies,
        share: float,
        compiled: Compiled,
        closed: Sequence[Closed] = (),
        book: Book | None = None,
    ) -> None:
        """`book`: what watched documents count in; None: these are in force."""
        once = compiled.once
        self.book: Book = state if book is None else book
        self.policies = policies
        self.met: dict[str, Phase] = {}
        """By kind, of those rows that are in the order of the catalogue."""
        self.serving: Phase | None = None
        """The limits on the side of the service."""
        self.limits: ratelimit.Sides | None = None
        if document_of(policies, "ratelimit", RateLimit) is not None:
            self.limits = limits = once("ratelimit", policies, ratelimit.compile)
            if limits.caller.limits or not limits.service.limits:
                self.met["ratelimit"] = Limits(state, policies["ratelimit"], limits.caller, book)
            if limits.service.limits:
                self.serving = Limits(state, policies["ratelimit"], limits.service, book)
        self.paths: Paths | None = None
        if document_of(policies, "path", PathPolicy) is not None:
            self.paths = Paths(state, policies["path"], once("path", policies, path.compile))
        self.breaker: Breakers | None = None
        if document_of(policies, "breaker", Breaker) is not None:
            self.breaker = Breakers(state, policies["breaker"], once("breaker", policies, breaker.compile), book)
        self.ejection: Ejection | None = None
        if document_of(policies, "outlier", Outlier) is not None:
            self.ejection = Ejection(policies["outlier"], once("outlier", policies, outlier.compile))
        if document_of(policies, "fault", FaultPolicy) is not None:
            self.met["fault"] = Faults(state, policies["fault"], once("fault", policies, fault.compile))
        routing = document_of(policies, "route", Route)
        if routing is not None:
            tests = None if route.is_drawn(routing) else once("route", policies, route.predicates)
            found = route.compile(routing, Scope(state.name), tests)
            self.met["route"] = Routes(state, policies["route"], found)
        copied = document_of(policies, "shadow", Shadow)
        self.shadow = Copying(state, policies["shadow"], shadow.compile(copied, Scope(state.name))) if copied else None
        self.shed: Sheds | None = None
        let_in = document_of(policies, "shed", Shed)
        if let_in is not None:
            part = share if state.together is None else 1.0
            rules = shed.compile(let_in, Scope(state.name, part))
            self.met["shed"] = self.shed = Sheds(state, policies["shed"], rules, book)
        for kind in GUARDS:
            if kind.name in policies:
                levels = _levels(kind, policies[kind.name], state.name, share)
                if levels:
                    self.met[kind.name] = Guards(kind.name, state, policies[kind.name], levels)
        self.knowing: Phase | None = None
        """Who people are, as callers' agents ask it, before anything that may ask for a claim."""
        if document_of(policies, "authn", Authn) is not None:
            known = policies["authn"]
            people = [Issuers(each, compiled.level("authn", each, compiled.people)) for each in known.levels]
            self.met["authn"] = Authentication(state, known, people)
            if not self.met["authn"].audit:
                self.knowing = Authentication(state, known, people, early=True)
        self.judges: tuple[Judge, ...] = ()
        """Whom requests may have to wait for."""
        self.early: Authorization | None = None
        """Rules that callers' agents ask as well."""
        if document_of(policies, "authz", Authz) is not None:
            self._authorize(state, policies["authz"], compiled)
        self.auditing: audit.Compiled | None = None
        """What is recorded of requests."""
        if document_of(policies, "audit", Audit) is not None:
            wanted = [compiled.level("audit", each, audit.compile) for each in policies["audit"].levels]
            self.auditing = audit.together(wanted)
        self.tracing: trace.Compiled | None = None
        """What becomes of its traces; None: they go on as they are."""
        if document_of(policies, "trace", Trace) is not None:
            self.tracing = once("trace", policies, _tracing(Scope(state.name, share)))
        self.tls = _tls(policies)
        self.exports = _exports(policies)
        """Hosts that take callers of other trust domains in."""
        for each in closed:
            self.met[each.kind] = Shut(state, each)
            if each.kind == "authn":
                self.knowing = self.met[each.kind]
            if each.kind == "ratelimit":
                self.serving = self.met[each.kind]

    def _authorize(self, state: Lasting, in_force: InForce, compiled: Compiled) -> None:
        levels = [Rules(each, _rules(state, each, compiled)) for each in in_force.levels]
        self.met["authz"] = Authorization(state, in_force, levels)
        self.judges = tuple([judge for level in levels for judge in level.compiled.judges])
        early = [level for level in levels if level.compiled.outbound]
        if early:
            self.early = Authorization(state, early[0].in_force, early, early=True)

    @property
    def people(self) -> list[Authn]:
        """What is said of them, the most specific first."""
        in_force = self.policies.get("authn")
        if in_force is None:
            return []
        return [each.document for each in in_force.levels if isinstance(each.document, Authn)]

    @property
    def whole(self) -> Phase | None:
        """The breaker of the service as a whole."""
        return self.breaker if self.breaker is not None and self.breaker.compiled.service is not None else None


def _rules(state: Lasting, in_force: InForce, compiled: Compiled) -> authz.Compiled:
    """One that asks somebody is kept with the service: what he has answered outlives changes of other documents."""
    document = in_force.document
    assert isinstance(document, Authz)
    place = f"{in_force.mode} {in_force.key}"
    known = state.asking.get(place)
    if known is not None and known[0] == document:
        kept: authz.Compiled = known[1]
        return kept
    found: authz.Compiled = compiled.level("authz", in_force, _authorizing(in_force.key))
    if found.judges and "*" not in in_force.key:
        state.asking[place] = (document, found)
    return found


def _authorizing(key: str) -> Callable[[Any], authz.Compiled]:
    """What compiles a document that was put for a pattern."""

    def make(document: Any) -> authz.Compiled:
        return authz.compile(document, Scope(key=key))

    return make


def _tracing(scope: Scope) -> Callable[[Any], trace.Compiled | None]:
    """What compiles a document, for a worker's part."""

    def make(document: Any) -> trace.Compiled | None:
        return trace.compile(document, scope)

    return make


def _levels(kind: Kind, in_force: InForce, service: str, share: float) -> list[Level]:
    """Those of a guard's documents that may have something to say."""
    make = kind.compile
    assert make is not None, f"policies/kinds/{kind.name}/decide.py makes nothing that could be asked"
    found: list[Level] = []
    for each in in_force.levels:
        guard: Guard | None = make(each.document, Scope(service, share, each.key))
        if guard is not None:
            found.append(Level(each, guard))
    return found


def _tls(policies: Policies) -> tls.Tls | None:
    imported: InForce | None = policies.get("import")
    if imported is not None:
        return tls.Tls(tls.STRICT, f"import/{imported.key} of revision {imported.revision}")
    policy = policies.get("tls")
    if policy is None:
        return None
    found = [(each, each.document) for each in policy.levels]
    return tls.combine(
        [tls.Level(each.key, each.revision, document) for each, document in found if isinstance(document, TlsPolicy)]
    )


def _exports(policies: Policies) -> frozenset[str]:
    policy: InForce | None = policies.get("export")
    if policy is None:
        return _NOBODY
    return export.gateways([each.document for each in policy.levels if isinstance(each.document, Export)])


def document_of(policies: Policies, name: str, kind: type[Any]) -> Any:
    """The document of a kind, if there is one."""
    policy: InForce | None = policies.get(name)
    return policy.document if policy is not None and isinstance(policy.document, kind) else None
