"""What the types of settings cannot say: names, addresses, times, and what does not go together."""

from __future__ import annotations

import ipaddress
from typing import Any

from agent.accounts import find_account
from agent.hooks.receivers import Receivers
from agent.hooks.targets import Targets
from agent.ports import Ports
from agent.requests.format import JSON
from agent.settings.address import Address, parse_listen
from agent.settings.document import DEFAULT_ETCD, UNIX, AuditSettings, Etcd, InstanceSettings, LocalPart, Settings
from agent.settings.people import check as check_people
from agent.settings.sinks import check_format, check_sinks
from agent.trust import parse_ranges
from policies.kinds.authz.outside import origin
from policies.language.addresses import check_range
from policies.language.duration import DAY_S, age_s, seconds
from policies.language.names import parse_pattern, parse_service
from policies.language.plain import Flaw, below
from registry.etcd.proxying import through
from registry.keys import Keys, check_host, check_id
from registry.records import Malformed, check_address

_OPTIONAL = ("metrics", "people")
"""Listeners that there may be."""
HOUR_S = 3600.0
MOST_KEPT_S = 3660 * DAY_S
MAX_SOCKET_PATH = 107
"""Bytes, in Linux' struct sockaddr_un."""


def check(settings: Settings) -> None:
    """Raises Flaw with the path of the setting."""
    _told("$.mesh", lambda: Keys(settings.mesh))
    _told("$.host", lambda: check_host(settings.host))
    _check_ip("$.address", settings.address)
    _check_local(settings.local)
    _check_callers(settings)
    for name, listen in _listened(settings).items():
        _told(f"$.{name}.listen", lambda listen=listen: parse_listen(listen))
    check_people(settings.people)
    _check_endpoint(settings.identity.spiffe_endpoint_socket)
    check_sinks(settings.records.sinks)
    _check_access_log(settings)
    _check_apart(settings)
    _check_times(settings)
    _check_etcd(settings.etcd)
    for number, text in enumerate(settings.inbound.agents):
        _told(f"$.inbound.agents[{number}]", lambda text=text: parse_ranges([text]))
    _check_audit(settings.audit)
    for number, text in enumerate(settings.trusted_proxies):
        _told(f"$.trusted_proxies[{number}]", lambda text=text: check_range(text))
    _told("$.hooks.allow", lambda: Targets(settings.hooks.allow))
    _told("$.authn.allow", lambda: Targets(settings.authn.allow))
    if settings.authn.ca_file and not settings.authn.ca_file.startswith("/"):
        raise Flaw("$.authn.ca_file", "a whole path, such as /etc/shoal/issuers.pem")
    _told("$.hooks.secrets", lambda: Receivers(settings.hooks.secrets))
    for number, url in enumerate(settings.opa.allow):
        _told(f"$.opa.allow[{number}]", lambda url=url: origin(url))
    _told("$.checks.ports", lambda: Ports(settings.checks.ports))
    _check_guard(settings)
    if settings.programs.user:
        _told("$.programs.user", lambda: find_account(settings.programs.user))
    if settings.hooks.link and not settings.hooks.link.startswith(("https://", "http://")):
        raise Flaw("$.hooks.link", "a URL, such as https://mesh.corp.example/{subject}")
    if not settings.hooks.secrets_dir.startswith("/"):
        raise Flaw("$.hooks.secrets_dir", "a whole path, such as /etc/shoal/secrets")
    if not settings.origins.certificates_dir.startswith("/"):
        raise Flaw("$.origins.certificates_dir", "a whole path, such as /etc/shoal/origins")
    seen: dict[tuple[str, str], int] = {}
    for number, instance in enumerate(settings.instances):
        _check_instance(f"$.instances[{number}]", instance)
        identity = (parse_service(instance.service), instance.id or str(instance.port))
        if identity in seen:
            raise Flaw(f"$.instances[{number}]", f"the same service and id as instances[{seen[identity]}]")
        seen[identity] = number


def _check_access_log(settings: Settings) -> None:
    check_format("$.access_log_format", settings.access_log_format)
    if settings.access_log_format != JSON and not settings.access_log:
        raise Flaw("$.access_log_format", "of access_log, and there is none; a sink of [records] has its own")


def _check_audit(audit: AuditSettings) -> None:
    for name in ("directory", "copy_to"):
        if getattr(audit, name) and not getattr(audit, name).startswith("/"):
            raise Flaw(f"$.audit.{name}", "a whole path, such as /var/lib/shoal/audit")
    try:
        kept_s = age_s(audit.keep)
    except ValueError as error:
        raise Flaw("$.audit.keep", str(error)) from None
    if not HOUR_S <= kept_s <= MOST_KEPT_S:
        raise Flaw("$.audit.keep", f"{kept_s:g} s; from 1h to {MOST_KEPT_S / DAY_S:g}d")


def _check_local(local: LocalPart) -> None:
    _check_socket("$.local.socket", local.socket, "agent.sock")
    for number, name in enumerate(local.operate):
        _check_user(f"$.local.operate[{number}]", name)
    for pattern, names in local.services.items():
        _told(below("$.local.services", pattern), lambda pattern=pattern: parse_pattern(pattern))
        for number, name in enumerate(names):
            _check_user(f"{below('$.local.services', pattern)}[{number}]", name)


def _check_endpoint(url: str) -> None:
    """Of a Workload API: who asks is known there by the socket's other end."""
    where = "$.identity.spiffe_endpoint_socket"
    if url and not url.startswith(f"{UNIX}/"):
        raise Flaw(where, "a Unix socket, such as unix:///run/spire/agent/public/api.sock")
    if len(url.removeprefix(UNIX).encode()) > MAX_SOCKET_PATH:
        raise Flaw(where, f"longer than {MAX_SOCKET_PATH} bytes, which is all that a socket's path may be")


def _check_socket(path: str, socket: str, such_as: str) -> None:
    if socket and not socket.startswith("/"):
        raise Flaw(path, f"a whole path, such as /run/shoal/{such_as}")
    if len(socket.encode()) > MAX_SOCKET_PATH:
        raise Flaw(path, f"longer than {MAX_SOCKET_PATH} bytes, which is all that a socket's path may be")


def _check_callers(settings: Settings) -> None:
    """Each by itself, and no path twice; ports are told apart by `_check_apart`."""
    taken = {str(settings.socket_path): "local.socket"}
    _check_path(taken, "outbound.socket", settings.outbound.socket, "requests.sock")
    for number, caller in enumerate(settings.callers):
        name = f"callers[{number}]"
        _told(f"$.{name}.service", lambda caller=caller: parse_service(caller.service))
        if caller.listen.startswith("/"):
            _check_path(taken, f"{name}.listen", caller.listen, "payments.sock")
        else:
            _told(f"$.{name}.listen", lambda caller=caller: _check_loopback(caller.listen))


def _check_path(taken: dict[str, str], name: str, socket: str, such_as: str) -> None:
    _check_socket(f"$.{name}", socket, such_as)
    if socket and taken.setdefault(socket, name) != name:
        raise Flaw(f"$.{name}", f"{socket} is {taken[socket]} already; give each its own")


def _check_loopback(listen: str) -> None:
    """Raises ValueError for where the kernel could not say whose the other end is."""
    address = parse_listen(listen)
    if not ipaddress.ip_address(address.host).is_loopback or not address.port:
        raise ValueError(f"a port of loopback, such as 127.0.0.1:15101, or a path; not {listen}")


def _check_user(path: str, name: str) -> None:
    if not name.removeprefix("@"):
        raise Flaw(path, "a user as alice or 1000, a group as @staff or @50")


def _check_apart(settings: Settings) -> None:
    """As many places as listeners: SO_REUSEPORT would let two of ours share one."""
    seen: dict[str, Address] = {}
    for name, listen in _listened(settings).items():
        address = parse_listen(listen)
        for other, taken in seen.items():
            everywhere = any(ipaddress.ip_address(host).is_unspecified for host in (address.host, taken.host))
            if address.port and address.port == taken.port and (address.host == taken.host or everywhere):
                raise Flaw(f"$.{name}.listen", f"{address} is where {other}.listen is already; give each its own port")
        seen[name] = address


def _check_guard(settings: Settings) -> None:
    """What nobody else reaches is no place for a listener of ours."""
    for number, entry in enumerate(settings.guard.ports):
        where = f"$.guard.ports[{number}]"
        _told(where, lambda entry=entry: Ports((entry,)))
        for name, listen in _listened(settings).items():
            if parse_listen(listen).port in Ports((entry,)):
                raise Flaw(where, f"{name}.listen is at {listen}, which others reach; name ports of instances only")


def _listened(settings: Settings) -> dict[str, str]:
    """Where there are listeners, by name."""
    found = {name: getattr(settings, name).listen for name in ("outbound", "inbound", "admin", *_OPTIONAL)}
    ports = {f"callers[{n}]": each.listen for n, each in enumerate(settings.callers) if not each.listen.startswith("/")}
    return {name: listen for name, listen in found.items() if listen or name not in _OPTIONAL} | ports


def _told(path: str, ask: Any) -> None:
    try:
        ask()
    except ValueError as error:
        raise Flaw(path, str(error)) from None


def _check_ip(path: str, address: str) -> None:
    try:
        if address:
            check_address(address)
    except Malformed as error:
        raise Flaw(path, error.reason) from None


_TIMES: dict[str, tuple[float, float]] = {
    "lease_ttl": (2, 3600),  # etcd grants no lease shorter than its election time-out allows
    "spread_timeout": (0, 60),
    "drain_timeout": (0, 3600),
    "reload_timeout": (0, 7 * 86400),
    "etcd.timeout": (0.1, 60),
    "audit.segment_age": (1, 7 * 86400),
    "audit.head_every": (1, 86400),
    "limits.head_timeout": (0.1, 600),
    "limits.idle_timeout": (0.1, 86400),
    "limits.waiting_timeout": (0, 600),
}


def _check_times(settings: Settings) -> None:
    for path, (low_s, high_s) in _TIMES.items():
        value: Any = settings
        for name in path.split("."):
            value = getattr(value, name)
        try:
            length_s = seconds(value)
        except ValueError as error:
            raise Flaw(f"$.{path}", str(error)) from None
        if not low_s <= length_s <= high_s:
            raise Flaw(f"$.{path}", f"{length_s:g} s; from {low_s:g} s to {high_s:g} s")


def _check_etcd(etcd: Etcd) -> None:
    for number, url in enumerate(etcd.endpoints):
        if not url.startswith(("http://", "https://")):
            raise Flaw(f"$.etcd.endpoints[{number}]", f"{url!r} is no URL, such as {DEFAULT_ETCD}")
    _told("$.etcd.proxy", lambda: through(etcd.proxy))
    if bool(etcd.cert) != bool(etcd.key):
        given, missing = ("cert", "key") if etcd.cert else ("key", "cert")
        raise Flaw(f"$.etcd.{given}", f"a client certificate is a pair: {missing} is missing")
    if bool(etcd.user) != bool(etcd.password_file):
        given, missing = ("user", "password_file") if etcd.user else ("password_file", "user")
        raise Flaw(f"$.etcd.{given}", f"user and password_file go together: {missing} is missing")


def _check_instance(path: str, instance: InstanceSettings) -> None:
    _told(f"{path}.service", lambda: parse_service(instance.service))
    if instance.id:
        _told(f"{path}.id", lambda: check_id(instance.id))
    _check_ip(f"{path}.address", instance.address)
    try:
        _ = instance.checked
    except Flaw as fault:
        raise Flaw(f"{path}.health{fault.path[1:]}", fault.reason) from None
