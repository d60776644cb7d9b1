"""Each check: what it finds, and that a mesh in which nothing is wrong has no findings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli.before_put import about, warnings
from agent.cli.commands.diagnosis.status import status_of
from agent.cli.documents import Source
from agent.cli.local_agent import Local
from agent.findings.finding import Finding, ordered
from agent.findings.of_mesh.callers import MOST
from agent.findings.of_mesh.chains import hops_of
from agent.findings.of_mesh.checks import findings
from agent.findings.of_mesh.enforcing import Text
from agent.findings.of_mesh.facts import Facts
from registry.census import Census, Misnamed, OtherMesh, Policy
from registry.etcd.members import Member
from registry.records import Ack, Agent, Health, Held, Instance, Layout, OutboxEntry, Rejection, Version
from tests.support.tokens import provider

ROOT = Path(__file__).resolve().parents[3]
NOW = 1_800_000_000.0
SERVICE = "pets.production"
LOCAL: dict[str, Any] = {
    "host": "web-1",
    "mesh": "default",
    "not_ready": "",
    "etcd": {"connected": True, "error": ""},
    "table": {"revision": 9},
    "descriptors": {"connections": 5, "connections_wanted": 5},
    "checks_unable": [],
    "checks_refused": [],
    "worker_restarts": 0,
    "topics": [],
    "shadowed": [],
    "listeners": [
        {"name": "outbound", "address": "127.0.0.1", "port": 15001},
        {"name": "inbound", "address": "0.0.0.0", "port": 15006},
        {"name": "admin", "address": "::1", "port": 15000},
    ],
}
MEMBER = Member(url="https://10.0.0.9:2379", version="3.5.21", size_bytes=1 << 20, quota_bytes=8 << 30, ahead_s=0.4)


LIMITS = {"limits": [{"name": "n", "rate": 5}]}
EXPOSED = {"web-1": {f"{SERVICE}/a": "0.0.0.0:8080"}}


def instance(version: str = "v1", agent: str = "web-1", **more: Any) -> Instance:
    return Instance(address=more.pop("address", "10.0.0.1"), port=8080, version=version, agent=agent, **more)


def census(**more: Any) -> Census:
    """A mesh of one agent with two versions of a service."""
    policies = more.pop("policies", {})
    made = Census(
        revision=9,
        newest=9,
        agents={"web-1": Agent(address="10.0.0.1", inbound_port=15006, version="1", started="2026-03-01T12:00:00Z")},
        acks={"web-1": Ack(revision=9, at="2026-03-01T12:00:00Z")},
        versions={"web-1": Version(version="1", build="compiled")},
        instances={
            (SERVICE, "a"): instance("v1", zone="north"),
            (SERVICE, "b"): instance("v2", metadata={"tier": "gold"}),
        },
        health={(SERVICE, "a"): Health(healthy=True), (SERVICE, "b"): Health(healthy=True)},
        policies={place: Policy(*place, 5, json.dumps(text).encode()) for place, text in policies.items()},
    )
    kinds = {kind: {} for kind, _ in policies}
    made.versions["web-1"] = Version(version="1", build="compiled", kinds=more.pop("kinds", kinds and _known(kinds)))
    return msgspec.structs.replace(made, **more)


def _known(kinds: dict[str, Any]) -> dict[str, Any]:
    from policies.vocabulary import vocabulary

    return {kind: msgspec.to_builtins(vocabulary(kind)) for kind in kinds}


def facts(**more: Any) -> Facts:
    fields: dict[str, Any] = {
        "census": census(),
        "now": NOW,
        "members": (MEMBER,),
        "authenticated": True,
        "local": LOCAL,
    }
    return Facts(**{**fields, **more})


def told(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.id, finding.severity, finding.where) for finding in found]


def documents(**policies: Any) -> Facts:
    """Of `kind__service` and a document each; `_` in a service is a dot, `any` a star."""
    named = {tuple(name.split("__")): text for name, text in policies.items()}
    places = {(kind, service.replace("any", "*").replace("_", ".")): text for (kind, service), text in named.items()}
    return facts(census=census(policies=places))


def audits(policies: dict[str, Any], *watched: str, text: bytes = b"{}") -> Facts:
    """Of what stands under `policies/` for pets, by kind, and `audits/<kind>/<service>`."""
    places = {(kind, SERVICE): text for kind, text in policies.items()}
    pairs = [tuple(each.split("/")) for each in watched]
    found = {(kind, service): Policy(kind, service, 6, text) for kind, service in pairs}
    return facts(census=census(policies=places, audits=found))


def api_keys(*ends: str) -> dict[str, Any]:
    """A document with keys that end then."""
    one = {"claims": {"sub": "batch"}}
    keys = [{**one, "id": f"k{n}", "hash": f"sha256:{n:064x}", "not_after": end} for n, end in enumerate(ends)]
    return {"api_keys": {"keys": keys}}


def local(**more: Any) -> Facts:
    return facts(local={**LOCAL, **more})


STANDS = {"kind": "breaker", "service": "pets.production", "endpoint": "v1", "after": "open", "audit": False,
          "reason": "5 of 9 failed"}  # fmt: skip
WEB = {"path": "/x/web.pem", "ends": "2026-11-30T00:00:00Z", "left_s": 259_200, "ending": False, "reason": ""}
OPA = {
    "document": "authz/lamps.production",
    "url": "http://127.0.0.1:8282",
    "allowed": True,
    "reason": "the OPA at 127.0.0.1:8282 cannot be reached: refused",
    "failures": 4,
    "on_failure": "deny",
    "audit": False,
}
ISSUER = {"source": "https://i", "keys": 1, "passed_over": 0, "age_s": 1.0, "reason": ""}


def member(**more: Any) -> Facts:
    return facts(members=(msgspec.structs.replace(MEMBER, **more),))


ELSEWHERE = {"rules": [{"split": [{"service": SERVICE}]}]}
WELL = {
    "a mesh": facts(),
    "nothing but a census": Facts(census=census()),
    "a claim of a token that is verified": documents(
        route__pets_production={"rules": [{"match": {"claims": {"tier": "free"}}}]},
        authn__any_production={"providers": [provider()]},
    ),
    "versions that are there": documents(route__pets_production={"active": "v1", "standby": "v2"}),
    "a wide document": documents(timeout__any_production={"request": "2s"}, retry__any={"attempts": 2}),
    "labels": documents(route__pets_production={"rules": [{"split": [{"labels": {"tier": "gold"}}]}]}),
    "a zone": documents(shed__pets_production={"concurrency": 5, "instead": [{"zone": "north"}]}),
    "a second name": documents(route__cats_production=ELSEWHERE, timeout__cats_production={"request": "2s"}),
    "a share of none": documents(
        route__pets_production={"rules": [{"split": [{"version": "v1"}, {"version": "v9", "weight": 0}]}]}
    ),
    "only watched": documents(route__pets_production={"mode": "audit", "active": "v9"}),
    "watched beside": audits({"retry": {"attempts": 3}}, f"retry/{SERVICE}", "timeout/*"),
    "put by hand": facts(census=census(instances={(SERVICE, "a"): instance(agent="")})),
    "an etcd of this host": facts(members=(Member(url="http://127.0.0.1:2379", version="3.5.21"),)),
}


WELL["agents that have moved"] = facts(
    census=census(
        layout=Layout(state="own_only"),
        versions={"web-1": Version(version="1", build="compiled", keys=["events", "hosts", "reports"])},
        instances={(SERVICE, f"{id}@web-1"): instance(version) for id, version in (("a", "v1"), ("b", "v2"))},
        health={},
    )
)


@pytest.mark.parametrize("name", WELL)
def test_where_nothing_is_wrong_nothing_is_found(name: str) -> None:
    """A check that cries over nothing is soon ignored."""
    assert told(findings(WELL[name])) == []


KNOWS = {"web-1": Version(version="1", build="compiled", keys=["events", "hosts", "reports"])}
OWN = {(SERVICE, "a@web-1"): instance("v1"), (SERVICE, "b@web-1"): instance("v2")}
IMPORT = {"trust_domain": "eu.shoal", "remote_service": "pets", "gateways": ["203.0.113.7:15006"]}
BELIEVES = {**LOCAL, "identity": {"trust_domain": "x.shoal", "federated": {"eu.shoal": 1}, "problems": []}}
CASES: list[tuple[Facts, str, str, str, str]] = [
    (local(etcd={"connected": True, "error": "", "not_allowed": ["/shoal/default/claims/"]}), "etcd-rights", "error",
     "web-1", "etcd does not let its agent write /shoal/default/claims/"),
    # Where agents write.
    (facts(census=census(layout=Layout(state="own"), instances=OWN, health={})), "keys-old", "error", "web-1",
     "its version, or its role in etcd, does not let it write under hosts/, as this mesh does"),
    (facts(census=census(layout=Layout(state="own_only"), instances=OWN, health={})), "keys-old", "error",
     "web-1", "what it registers is used by nobody"),
    (facts(census=census(layout=Layout(state="own_only"), versions=KNOWS)), "keys-moving", "warning", "web-1",
     f"{SERVICE}/a and {SERVICE}/b stand not under hosts/, and the mesh says otherwise"),
    (facts(census=census(layout=Layout(state="common"), instances=OWN, health={})), "keys-moving", "warning", "web-1",
     f"{SERVICE}/a@web-1 and {SERVICE}/b@web-1 stand under hosts/, and the mesh says otherwise"),
    # What is only watched.
    (audits({"retry": {"mode": "audit"}}, f"retry/{SERVICE}"), "two-audits", "warning", f"audits/retry/{SERVICE}",
     f"policies/retry/{SERVICE} is in audit mode too, and is not watched while this one stands"),
    (audits({"retry": {"attempts": 3}}, f"retry/{SERVICE}",
     text=b"{kind: retry, mode: audit, attempts: 3}"), "watched-in-vain", "warning", f"audits/retry/{SERVICE}",
     f"it says what policies/retry/{SERVICE} says, which is enforced: there is nothing to watch"),
    (audits({}, "retry/tosy"), "matches-nothing", "warning", "audits/retry/tosy",
     "matches no service that has instances"),
    (facts(census=census(audits_rejected={("retry", SERVICE): Rejection(
        path="$", reason="no field 'x' here", revision=5, agent="web-1", at="")})), "refused", "error",
     f"audits/retry/{SERVICE}", "refused: $: no field 'x' here"),
    # Documents.
    (documents(route__pets_production={"active": "v9"}), "no-such-version", "error", "route/pets.production $.active",
     "no instance of pets.production has version v9 (there are v1 and v2): what goes there is answered with 503"),
    (documents(route__pets_production={"active": "v1", "standby": "v9"}), "no-such-version", "warning",
     "route/pets.production $.standby", "nothing to switch to"),
    (documents(route__any_production={"rules": [{"split": [{"version": "v1"}, {"version": "v9"}]}]}), "no-such-version",
     "error", "route/*.production $.rules[0].split[1]", "no instance of pets.production has version v9"),
    (documents(route__pets_production={"rules": [{"split": [{"version": "v1"}, {"version": "v9"}],
                                                  "empty": "others"}]}), "no-such-version", "warning",
     "route/pets.production $.rules[0].split[1]",
     "no healthy instance of pets.production has version v9 (there are v1 and v2): its share goes to the others"),
    (documents(route__pets_production={"rules": [{"split": [{"version": "v1"}, {"labels": {"tier": "lead"}}],
                                                  "empty": "others"}]}), "no-such-version", "warning",
     "route/pets.production $.rules[0].split[1]", "has tier=lead: its share goes to the others"),
    (documents(route__pets_production={"rules": [{"split": [{"labels": {"tier": "lead"}}]}]}), "no-such-version",
     "error", "route/pets.production $.rules[0].split[0]", "has tier=lead: what goes there"),
    (documents(authz__pets_production={"rules": [{"allow": ["pets.production", "pets.prodution"]}]}), "no-such-caller",
     "warning", "authz/pets.production $.rules[0].allow[1]", "pets.prodution was heard of (did you mean 'pets.product"),
    (documents(isolation__pets_production={"allow": ["*.production", "later"]}), "no-such-caller", "info",
     "isolation/pets.production $.allow[1]", "nothing that is called later was heard of: it is for nobody"),
    (documents(route__pets_production={"rules": [{"match": {"caller": ["pet.production"]}, "split": [
        {"version": "v1"}]}]}), "no-such-caller", "warning", "route/pets.production $.rules[0].match.caller[0]",
     "(did you mean 'pets.production'?)"),
    (documents(route__pets_production={"rules": [{"match": {"claims": {"tier": "free"}}}]}), "no-claims", "warning",
     "route/pets.production $.rules[0].match.claims.tier", "no authn document covers pets.production"),
    (documents(authn__pets_production=api_keys("2027-01-20T00:00:00Z", "")), "api-key", "warning",
     "authn/pets.production $.api_keys.keys[0]", "the API key k0 ends at 2027-01-20T00:00:00Z"),
    (documents(authn__pets_production=api_keys("", "2027-01-10T00:00:00+01:00")), "api-key", "info",
     "authn/pets.production $.api_keys.keys[1]", "the API key k1 has ended"),
    (documents(ratelimit__pets_production={"limits": [{"name": "all", "rate": 1, "key": {"claim": "sub"}}]},
               authn__pets_production={"providers": [provider()], "mode": "audit"}), "no-claims", "warning",
     "ratelimit/pets.production $.limits[0].key.claim", "holds for nobody"),
    (documents(route__pets_production={"rules": [{"split": [{"service": "pet.production"}]}]}), "no-such-service",
     "error", "route/pets.production $.rules[0].split[0]", "(did you mean 'pets.production'?)"),
    (documents(breaker__pets_production={"trip": {"consecutive": 3}, "fallback": {"version": "v0"}}), "no-such-version",
     "warning", "breaker/pets.production $.fallback", "the fallback can take nothing over"),
    (documents(breaker__pets_production={"trip": {"consecutive": 3}, "fallback": {"service": "dogs"}}),
     "no-such-service", "warning", "breaker/pets.production $.fallback", "there is no service dogs"),
    (documents(shed__pets_production={"concurrency": 5, "instead": [{"zone": "south"}]}), "no-such-version",
     "warning", "shed/pets.production $.instead[0]", "has zone south"),
    (documents(shadow__pets_production={"copies": [{"to": "pets.staging"}]}), "no-such-service", "warning",
     "shadow/pets.production $.copies[0]", "nothing is copied there"),
    (documents(shadow__pets_production={"compare": {"primary": "v1", "candidate": {"version": "v3"}}}),
     "no-such-version", "warning", "shadow/pets.production $.compare.candidate", "has version v3"),
    (documents(timeout__pet_production={"request": "2s"}), "matches-nothing", "warning", "timeout/pet.production",
     "there is no service pet.production (did you mean 'pets.production'?)"),
    (documents(timeout__any_prodution={"request": "2s"}), "matches-nothing", "warning", "timeout/*.prodution",
     "matches no service (did you mean 'production'?)"),
    (documents(route__cats={"active": "v1"}), "matches-nothing", "warning", "route/cats", "there is no service cats"),
    (documents(timeout__any={"request": "2s"}, timeout__pets_production={"request": "1s"}), "overridden", "info",
     "timeout/*", "pets.production has a more specific timeout"),
    # What is not in force.
    (facts(census=census(rejected={("route", SERVICE): Rejection(path="$.activ", reason="no", revision=5, agent="a",
     at="")})), "refused", "error", "route/pets.production", "$.activ: no"),
    (facts(census=census(misnamed={("retry", "pets.*"): Misnamed(7, "no pattern")})), "refused", "error",
     "retry/pets.*", "key: no pattern"),
    (facts(census=census(held={("route", SERVICE): Held(revision=5, reason="another etcd")})), "held", "error",
     "route/pets.production", "another etcd"),
    (facts(census=census(policies={("timeout", SERVICE): {"request": "1s"}}, kinds={"retry": {"fields": {}}})),
     "not-enforced", "error", "timeout/pets.production", "web-1 (1)"),
    (facts(census=census(policies={("isolation", "*"): {"allow": []}}, calls={"shop": {SERVICE}})), "isolated",
     "warning", "isolation/*", "shop → pets.production"),
    (facts(census=census(policies={("authz", "*"): {"rules": []}}, calls={"shop": {SERVICE}})), "denied",
     "warning", "authz/*", "shop → pets.production"),
    (facts(census=census(policies={("tls", "*"): {"mtls": "strict"}})), "tls-not-ready", "error", "tls/*",
     "web-1 holds no certificate of its own"),
    (facts(census=census(policies={("import", "pets.eu"): IMPORT})), "no-bundle", "error", "import/pets.eu",
     "nothing can be proven in this mesh yet: callers get 503"),
    (facts(census=census(policies={("import", SERVICE): IMPORT}), local=BELIEVES), "import-hides", "warning",
     f"import/{SERVICE}", "a and b"),
    (facts(census=census(policies={("export", SERVICE): {"to": ["eu.shoal"], "gateways": ["web-9"]}}), local=BELIEVES),
     "no-gateway", "warning", f"export/{SERVICE}", "no agent lives on its gateway web-9"),
    (facts(census=census(versions={})), "version-unknown", "info", "default", "web-1"),
    # Instances and agents.
    (facts(census=census(health={(SERVICE, id): Health(healthy=False) for id in "ab"})), "nobody-healthy", "error",
     SERVICE, "none of its instances"),
    (facts(census=census(instances={(SERVICE, "a"): instance(state="draining")})), "nobody-healthy", "error", SERVICE,
     "none of its instances"),
    (facts(suspects=frozenset({("shop", "a")})), "nobody-healthy", "warning", "shop", "kept of it as suspects (1)"),
    (facts(census=census(instances={(SERVICE, id): instance(agent="web-7") for id in "ab"})), "agent-gone", "warning",
     "web-7", "pets.production/a and pets.production/b stand"),
    (facts(census=census(agents={}, instances={})), "no-agent", "error", "default", "no agent is alive"),
    (facts(census=census(acks={})), "agent-lags", "error", "web-1", "runs nothing so far, and not 9"),
    (facts(census=census(acks={"web-1": Ack(revision=8)})), "agent-lags", "error", "web-1", "runs revision 8"),
    (facts(census=census(versions={"web-1": Version(version="1", build="interpreted")})), "interpreted", "warning",
     "web-1", "not compiled"),
    (facts(census=census(acks={"web-1": Ack(revision=9, at="2027-01-15T08:01:40Z")})), "clock", "warning", "web-1",
     "100 s before"),
    # Keys and meshes.
    (facts(strangers={"/shoal/default/policy/x": "none"}), "unknown-key", "error", "/shoal/default/policy/x", "none"),
    (facts(census=census(malformed={"/shoal/default/agents/x": "not JSON"})), "unknown-key", "error",
     "/shoal/default/agents/x", "not JSON"),
    (facts(census=census(undelivered={"e1": OutboxEntry(event={}, done={"*/chat": "410"})})), "undelivered", "warning",
     "e1", "*/chat: 410"),
    (facts(meshes={"defualt": OtherMesh(policies=2)}), "empty-mesh", "warning", "/shoal/defualt/",
     "(did you mean 'default'?)"),
    (facts(meshes={"policies": OtherMesh()}), "empty-mesh", "warning", "/shoal/policies/", "/shoal/default/policies/"),
    (facts(not_seen="permission denied"), "not-looked", "info", "default", "permission denied"),
    # etcd.
    (member(error="timed out"), "etcd-member", "error", MEMBER.url, "does not answer: timed out"),
    (member(version="3.5.9"), "etcd-release", "warning", MEMBER.url, "can lose watch events"),
    (member(alarms=("memberID:1 alarm:NOSPACE ",)), "etcd-alarm", "error", MEMBER.url, "NOSPACE"),
    (member(alarms=("memberID:1 alarm:CORRUPT ",)), "etcd-alarm", "error", MEMBER.url, "CORRUPT"),
    (member(size_bytes=7 << 30, in_use_bytes=1 << 30), "etcd-quota", "warning", MEMBER.url, "7168 MiB of 8192"),
    (member(size_bytes=2 << 30, quota_bytes=None), "etcd-quota", "warning", MEMBER.url, "etcd's default"),
    (member(ahead_s=-30.0), "clock", "warning", MEMBER.url, "30 s behind"),
    (member(url="http://10.0.0.9:2379"), "etcd-plain", "warning", "http://10.0.0.9:2379", "without TLS"),
    (facts(authenticated=False), "etcd-open", "warning", MEMBER.url, "asks nobody"),
    (facts(authenticated=False, members=(Member(url="http://127.0.0.1:2379", version="3.5.21"),)), "etcd-open", "info",
     "http://127.0.0.1:2379", "asks nobody"),
    # This host.
    (facts(local=None, place="/run/shoal/agent.sock"), "no-local-agent", "info", "/run/shoal/agent.sock", "no agent"),
    (facts(local=None, place="/run/shoal/agent.sock", local_error="no agent answers at /run/shoal/agent.sock"),
     "no-local-agent", "error", "/run/shoal/agent.sock", "nor which hosts were lost"),
    (local(lost=[{"host": "web-9", "since": "2026-03-01T12:00:00Z", "suspects": 2, "answers": False}]), "agent-lost",
     "error", "web-9", "lost since 2026-03-01T12:00:00Z: its lease ran out without a word; nobody answers there; 2"),
    (local(mesh="other"), "other-mesh", "warning", "web-1", "'other'"),
    (local(not_ready="waiting for the workers"), "not-ready", "error", "web-1", "waiting for the workers"),
    (local(etcd={"connected": False, "error": "refused"}), "etcd-lost", "error", "web-1", "serves revision 9: refused"),
    (local(descriptors={"connections": 4, "connections_wanted": 5}), "descriptors", "warning", "web-1", "not for 5"),
    (local(instances_refused=[{"service": "s", "id": "i", "reason": "web-2"}]), "instance-refused", "error", "s/i",
     "web-2"),
    (local(checks_unable=[{"service": "s", "id": "i", "reason": "no"}]), "check-unable", "error", "s/i", "no"),
    (local(client_certificates={"bank": {"path": "/x/bank.pem", "reason": "/x/bank.pem: readable by others"},
     "post": {"path": "/x/post.pem", "reason": ""}}), "client-certificate", "warning", "web-1", "bank.pem: readable"),
    (local(people_certificate=WEB | {"ending": True}), "people-certificate", "warning", "web-1",
     "/x/web.pem, ends in 3 days, at 2026-11-30T00:00:00Z"),
    (local(people_certificate=WEB | {"ending": True, "left_s": -5}), "people-certificate", "error", "web-1",
     "has ended, at 2026-11-30T00:00:00Z"),
    (local(people_certificate=WEB | {"left_s": None, "reason": "No such file or directory"}), "people-certificate",
     "error", "web-1", "is of no use: No such file"),
    (local(checks_refused=[{"service": "s", "id": "i", "reason": "a"}]), "check-refused", "warning", "s/i", "a"),
    (local(worker_restarts=2), "worker-died", "warning", "web-1", "2 workers"),
    (local(topics=[{"url": "redis://r", "problem": "away", "broker_refused": "", "warning": "", "waiting": 3}]),
     "topic", "warning", "redis://r", "away"),
    (local(standing=[STANDS]), "standing", "warning", "pets.production/v1", "breaker open: 5 of 9 failed"),
    (local(standing=[STANDS | {"audit": True}]), "standing", "info", "pets.production/v1", "it only would be"),
    (local(standing=[STANDS | {"endpoint": ""}]), "standing", "warning", "pets.production", "5 of 9"),
    (local(records=[{"name": "file", "trouble": "disk full", "lost": {"full": 2}}]), "records", "warning",
     "web-1 file", "2 are lost: disk full"),
    (local(identity={"held": [], "problems": [{"name": "agent", "reason": "there is no certificate: x"}]}), "identity",
     "error", "web-1 agent", "no certificate"),
    (local(identity={"problems": [{"name": "svc/pets.production", "reason": "no grant lets web-1 hold it: etcdctl"}]}),
     "identity", "warning", "web-1 pets.production", "etcdctl"),
    (local(identity={"held": [{"name": "agent"}], "problems": [{"name": "agent", "reason": "its certificate ends"}]}),
     "identity", "warning", "web-1 agent", "ends"),
    (local(issuers=[{**ISSUER, "keys": None, "age_s": None, "reason": "it answers 500"}]),
     "issuer-keys", "error", "https://i", "never got here, and its tokens are answered with 503: it answers 500"),
    (local(issuers=[{**ISSUER, "age_s": 7300.0, "reason": "away"}]),
     "issuer-keys", "warning", "https://i", "2 hours old, and no others can be got: away"),
    (local(issuers=[{**ISSUER, "age_s": 64_800.0, "reason": "away", "ending": True, "left_s": 21_600.0}]),
     "issuer-keys", "error", "https://i", "18 hours old; they count for 6 hours more: away"),
    (local(issuers=[{**ISSUER, "age_s": 172_900.0, "reason": "away", "ending": True, "left_s": 0.0}]),
     "issuer-keys", "error", "https://i", "max_age is over, and its tokens are answered with 503: away"),
    (local(issuers=[{**ISSUER, "keys": 0, "passed_over": 2}]),
     "issuer-keys", "error", "https://i", "no key that verifies tokens (2 of other kinds)"),
    (local(opas=[{**OPA, "allowed": False, "reason": "", "failures": 0}]), "opa", "error", "authz/lamps.production",
     "web-1 may not ask http://127.0.0.1:8282: [opa] allow in its agent.toml does not name it; requests are denied"),
    (local(opas=[OPA]), "opa", "error", "authz/lamps.production",
     "in vain: the OPA at 127.0.0.1:8282 cannot be reached: refused (4 times in a row); requests are denied"),
    (local(opas=[{**OPA, "on_failure": "allow"}]), "opa", "warning", "authz/lamps.production", "are allowed unasked"),
    (local(opas=[{**OPA, "audit": True}]), "opa", "warning", "authz/lamps.production", "would be denied"),
    (local(identity={"clocks": {"db-1": -3600.0}}), "identity-clock", "warning", "db-1", "3600 s behind that of web-1"),
    (
        local(identity={"workload_api": "/run/spire.sock", "workload_error": "unavailable: gone"}),
        "identity-workload-api",
        "warning",
        "web-1",
        "/run/spire.sock gives nothing: unavailable: gone",
    ),
    (local(identity={"error": "permission denied"}), "identity-etcd", "warning", "web-1", "permission denied"),
    (local(shadowed=[{"key": "/k", "reason": "another spelling"}]), "two-spellings", "warning", "/k", "another"),
    (local(listeners=[{"name": "admin", "address": "0.0.0.0", "port": 15000}]), "open-port", "warning", "web-1 admin",
     "state, metrics"),
    (local(listeners=[{"name": "outbound", "address": "10.0.0.1", "port": 15001}]), "open-port", "warning",
     "web-1 outbound", "send requests into the mesh"),
    (facts(census=census(exposed=EXPOSED)), "open-port", "info", f"{SERVICE}/a", "around the mesh: 0.0.0.0:8080 on"),
    (facts(census=census(exposed=EXPOSED, policies={("authz", "*"): {"rules": []}})), "open-port", "warning",
     f"{SERVICE}/a", "around authz/*: 0.0.0.0:8080"),
    (facts(census=census(exposed=EXPOSED, policies={("authz", "*"): {"rules": [], "mode": "audit"},
     ("tls", "*"): {"mtls": "permissive"}})), "open-port", "info", f"{SERVICE}/a", "around the mesh"),
    (facts(census=census(exposed=EXPOSED, policies={("ratelimit", "*.production"): LIMITS})),
     "open-port", "warning", f"{SERVICE}/a", "around ratelimit/*.production"),
    (local(guard={"ports": [[20000, 29999]]}), "guard", "info", "web-1", "is not known"),
    (msgspec.structs.replace(local(guard={"ports": [[20000, 29999]]}), guard=False), "guard", "warning", "web-1",
     "do not stand"),
    (msgspec.structs.replace(local(guard={"ports": [[8081, 8090]]}, local=[{"service": "s", "id": "i", "port": 8080}]),
     guard=True), "guard", "info", "web-1", "not for the ports of s/i"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "id", "severity", "where", "what"), CASES)
def test_what_is_wrong_is_found(given: Facts, id: str, severity: str, where: str, what: str) -> None:
    """And nothing else; each says what to do."""
    (found,) = findings(given)
    assert told([found]) == [(id, severity, where)]
    assert what in found.what
    assert found.next and str(found) == f"{where}: {found.what}; {found.next}"


def test_two_agents_find_what_one_does_not() -> None:
    """An address that is everybody's own, several versions, and agents in another mesh than was asked about."""
    two = {host: Agent(address=address, inbound_port=1, version=version)
           for host, address, version in (("web-1", "127.0.0.1", "1"), ("web-2", "10.0.0.2", "2"))}  # fmt: skip
    acks, versions = dict.fromkeys(two, Ack(revision=9)), dict.fromkeys(two, Version(version="1", build="compiled"))
    found = findings(facts(census=census(agents=two, acks=acks, versions=versions)))
    assert told(found) == [("agent-loopback", "error", "web-1"), ("versions", "info", "default")]
    for address, loopback in (("127.0.0.2", []), ("127.0.0.1", ["web-1", "web-2"])):
        both = {**two, "web-2": Agent(address=address, inbound_port=1, version="1")}
        found = findings(facts(census=census(agents=both, acks=acks, versions=versions)))
        assert [each.where for each in found if each.id == "agent-loopback"] == loopback, "those of one host differ"
    found = findings(facts(census=Census(), meshes={"prod": OtherMesh(agents=2), "old": OtherMesh(agents=1)}, mesh="x"))
    assert ("other-mesh", "warning", "/shoal/prod/") in told(found)
    assert ("no-agent", "error", "x") in told(found)


def test_what_is_wrong_along_a_chain_is_found_once() -> None:
    """Where it is, however many roots lead there."""
    calls = {"a": {"c"}, "b": {"c"}, "c": {SERVICE}}
    policies = {("timeout", SERVICE): {"request": "20s"}}
    found = findings(facts(census=census(calls=calls, policies=policies)))
    chain = [finding for finding in found if finding.id == "chain-timeout"]
    assert {finding.where for finding in chain} == {SERVICE} and all("20 s" in finding.what for finding in chain)
    assert len({finding.what for finding in chain}) == len(chain)


def test_a_share_without_a_healthy_instance_is_told_of_where_others_take_it() -> None:
    """Ill ones are as good as none there; where it fails, they are tried, and that is no share without instances."""
    ill = {(SERVICE, "a"): Health(healthy=True), (SERVICE, "b"): Health(healthy=False)}
    targets = [{"version": "v1"}, {"version": "v2"}]
    for empty, wanted in (("others", ["no-such-version"]), ("fail", [])):
        policies = {("route", SERVICE): {"rules": [{"split": targets, "empty": empty}]}}
        mesh = census(health=ill, policies=policies)
        assert [finding.id for finding in findings(facts(census=mesh)) if "route/" in finding.where] == wanted
        told_of = status_of(mesh, {}, Local(None), NOW)["shares"]
        assert [share["where"] for share in told_of] == ["route/pets.production $.rules[0].split[1]"] * len(wanted)
    lost = census(policies={("route", SERVICE): {"active": "v9", "standby": "v8"}})
    (share,) = status_of(lost, {}, Local(None), NOW)["shares"]
    assert share["where"] == "route/pets.production $.active" and share["what"].endswith("answered with 503")


@pytest.mark.parametrize(
    ("export", "asked", "wanted"),
    [("20s", None, True), ("10s", None, False), ("20s", "30s", False), ("20s", "18s", True), ("1h", 0, False)],
)
def test_a_rules_own_time_counts_along_a_chain(export: str, asked: Any, wanted: bool) -> None:
    """The longest that a service's rules or its policy give: for what it may take, and for how long it waits."""
    rules = [{"match": {"path": {"prefix": "/export"}}, "timeout": {"request": export}},
             {"match": {"path": {"prefix": "/quick"}}, "timeout": {"request": "1s", "try": "500ms"}}]  # fmt: skip
    policies: dict[Any, Any] = {("route", SERVICE): {"rules": rules}}
    if asked is not None:
        policies["timeout", "c"] = {"request": "2s" if asked else 0}
        policies["route", "c"] = {"rules": [{"timeout": {"request": asked or "1s"}}]}
    mesh = census(calls={"c": {SERVICE}}, policies=policies)
    chain = [finding for finding in findings(facts(census=mesh)) if finding.id == "chain-timeout"]
    assert [finding.where for finding in chain] == [SERVICE] * wanted
    assert all(f"may take {export[:-1]} s" in finding.what for finding in chain)


def test_a_bundles_name_is_no_service() -> None:
    """So that there is no service of its name is nothing to be told."""
    mesh = census(policies={("rego", "groups"): {"data": {"readers": ["shop"]}}})
    assert [each for each in findings(facts(census=mesh)) if each.where == "rego/groups"] == []
    assert warnings(mesh, [source("rego", "groups", data={"readers": []})], []) == []


def source(kind: str, service: str, **document: Any) -> Source:
    return Source("-", kind, service, json.dumps(document).encode())


def test_a_put_warns_of_what_it_makes_wrong_and_of_nothing_else() -> None:
    """Of its own documents always; of others where it changes what they find; not of what was wrong before."""
    before = census(policies={("timeout", "tosy"): {"request": "1s"}, ("retry", "cats"): {}})
    found = warnings(before, [source("route", SERVICE, active="v9")], [])
    assert told(found) == [("no-such-version", "error", "route/pets.production $.active")]
    assert told(warnings(before, [source("timeout", "tosy", request="2s")], [])) == [
        ("matches-nothing", "warning", "timeout/tosy")
    ]
    assert warnings(before, [source("timeout", SERVICE, request="2s")], []) == []
    assert warnings(before, [], [("timeout", "tosy")]) == []
    named = census(policies={("route", "cats"): ELSEWHERE, ("retry", "cats"): {}})
    assert told(warnings(named, [], [("route", "cats")])) == [("matches-nothing", "warning", "retry/cats")]
    assert told(about(before, [Text("retry", "cats", b"{}")])) == [("matches-nothing", "warning", "retry/cats")]
    assert about(before, []) == []


def test_a_service_of_which_only_suspects_are_left_is_there() -> None:
    """What is written for it is neither for nobody nor meant for another."""
    mesh = census(policies={("timeout", "shop"): {"request": "2s"}, ("shadow", SERVICE): {"copies": [{"to": "shop"}]}})
    found = findings(facts(census=mesh, suspects=frozenset({("shop", "a")})))
    assert {each.id for each in found} == {"nobody-healthy"}
    assert {each.id for each in findings(facts(census=mesh))} >= {"matches-nothing", "no-such-service"}


def test_of_names_that_nobody_has_heard_of_a_few_are_told() -> None:
    """Each is compared with all services: a document of thousands must not hold an agent up."""
    rules = [{"allow": [f"nobody-{n}.example" for n in range(1000)]} for _ in range(3)]
    found = [
        each for each in findings(documents(authz__pets_production={"rules": rules})) if each.id == "no-such-caller"
    ]
    assert len(found) == MOST + 1 and found[-1].what == f"nor was anything heard of {1000 - MOST} more that it names"


def test_the_worst_comes_first_and_nothing_twice() -> None:
    """In the order in which they were found."""
    made = [Finding(name, severity, "", "", "") for name, severity in
            (("a", "info"), ("b", "warning"), ("c", "error"), ("b", "warning"), ("d", "warning"))]  # fmt: skip
    assert [finding.id for finding in ordered(made)] == ["c", "b", "d", "a"]


def test_the_page_has_every_finding_and_a_case_is_tried_of_each() -> None:
    """A new check is a function, its line in the page, and a case here."""
    text = "".join(path.read_text() for path in (ROOT / "agent/findings").rglob("*.py"))
    ids = set(re.findall(r'Finding\(\s*"([a-z-]+)"', text))
    page = (ROOT / "docs/command-line.md").read_text().partition("## `shoal check`")[2].partition("\n## ")[0]
    assert ids <= set(re.findall(r"`([a-z-]+)`", page))
    assert ids - {case[1] for case in CASES} == {"agent-loopback", "failing", "silent", "versions"}, (
        "these are tried elsewhere"
    )


def test_what_is_only_watched_takes_nothing_out_of_force_along_chains() -> None:
    """The mesh's timeout counts for a service whose own one is in audit mode."""
    policies: dict[Any, Any] = {
        ("timeout", "*"): {"request": "3s"},
        ("timeout", "c"): {"mode": "audit", "request": "9s"},
    }
    hop = hops_of(census(calls={"c": {SERVICE}}, policies=policies))["c"]
    assert (hop.sources["timeout"], hop.timeouts.request_s) == ("timeout/*", 3.0)
