"""Members of etcd: whether they answer, what they run, how full they are, and whom they let in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from agent.findings.finding import Finding
from agent.findings.of_mesh.facts import Facts
from registry.etcd.members import Member
from registry.etcd.releases import known_faults

DEFAULT_QUOTA_BYTES: Final = 2 * 1024**3
"""etcd's own (--quota-backend-bytes)."""
NEARLY_FULL: Final = 0.8
SKEW_S: Final = 5.0


def of_members(facts: Facts) -> Iterator[Finding]:
    """Each endpoint by itself."""
    for member in facts.members:
        if member.error:
            yield Finding(
                "etcd-member",
                "error",
                member.url,
                f"does not answer: {member.error}",
                "start it, or leave it out of --etcd",
            )
            continue
        for fault in known_faults(member.version):
            yield Finding("etcd-release", "warning", member.url, f"etcd {member.version}: {fault}", "upgrade it")
        for alarm in member.alarms:
            yield Finding("etcd-alarm", "error", member.url, alarm, _mend(alarm))
        yield from _filling(member)
        if member.ahead_s is not None and abs(member.ahead_s) > SKEW_S:
            side = "before" if member.ahead_s > 0 else "behind"
            what = f"its clock is {abs(member.ahead_s):.0f} s {side} this host's"
            yield Finding("clock", "warning", member.url, what, "let both hosts take their time from one source (NTP)")


def of_doors(facts: Facts) -> Iterator[Finding]:
    """Who may write to etcd decides where requests go."""
    outside = [member.url for member in facts.members if not member.error and not _is_loopback(member.url)]
    plain = [url for url in outside if not url.startswith("https://")]
    if facts.authenticated is False:
        where = outside[0] if outside else facts.members[0].url if facts.members else facts.mesh
        what = "etcd asks nobody who he is: whoever reaches it decides where requests go"
        users = "`etcdctl auth enable`, with the users and roles of docs/keys.md"
        yield Finding("etcd-open", "warning" if outside else "info", where, what, users)
    for url in plain:
        what = "etcd is spoken to without TLS: whoever is in between reads and writes along"
        yield Finding("etcd-plain", "warning", url, what, "give etcd certificates, and https:// to `endpoints`")


def _mend(alarm: str) -> str:
    if "NOSPACE" in alarm:
        return "it takes no writes: compact, defragment, raise --quota-backend-bytes, then `etcdctl alarm disarm`"
    if "CORRUPT" in alarm:
        return "replace this member by a new one"
    return "see etcd's log"


def _filling(member: Member) -> Iterator[Finding]:
    quota = DEFAULT_QUOTA_BYTES if member.quota_bytes is None else member.quota_bytes
    if quota <= 0 or member.size_bytes < NEARLY_FULL * quota:
        return
    size, most, in_use = (number / 2**20 for number in (member.size_bytes, quota, member.in_use_bytes))
    what = f"{size:.0f} MiB of {most:.0f} are taken, {in_use:.0f} in use"
    if member.quota_bytes is None:
        what += "; the quota is etcd's default, it does not tell its own"
    full = "`etcdctl defrag`, --auto-compaction-retention, or a larger --quota-backend-bytes; full, it takes no writes"
    yield Finding("etcd-quota", "warning", member.url, what, full)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
