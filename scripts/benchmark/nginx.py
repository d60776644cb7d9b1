"""nginx as a proxy: Debian's package."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.benchmark import traffic
from scripts.benchmark.load import answers
from scripts.benchmark.peer import Peer, Proxy, Site
from scripts.benchmark.processes import free_ports, running, wait_until
from scripts.benchmark.upstream import temp_paths


def configuration(site: Site, port: int) -> str:
    """One worker; split_clients for the weights, least_conn, next upstream on failure, an access log."""
    v1 = " ".join(f"server 127.0.0.1:{port};" for port in site.upstream.v1)
    v2 = " ".join(f"server 127.0.0.1:{port};" for port in site.upstream.v2)
    return f"""
daemon off;
worker_processes 1;
pid {site.workdir}/nginx.pid;
error_log {site.workdir}/nginx-errors.log;
events {{ worker_connections 16384; }}
http {{
    access_log {site.workdir}/nginx-access.log combined buffer=64k flush=10s;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    {temp_paths(site.workdir, "nginx")}
    upstream v1 {{ least_conn; {v1} keepalive 64; keepalive_requests 1000000000; }}
    upstream v2 {{ least_conn; {v2} keepalive 64; keepalive_requests 1000000000; }}
    upstream films {{ server 127.0.0.1:{site.upstream.flood}; keepalive 4; }}
    split_clients "$connection$msec$request_id" $split {{ 90% v1; * v2; }}
    map $http_x_user_group $chosen {{ guinea-pigs v2; default $split; }}
    proxy_http_version 1.1;
    proxy_connect_timeout 1s;
    proxy_read_timeout 15s;
    proxy_next_upstream error timeout http_503;
    proxy_next_upstream_tries 2;
    proxy_set_header Host $host;
    proxy_set_header Connection "";
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    server {{
        listen 127.0.0.1:{port};
        server_name {traffic.HOST};
        location /pets/admin {{ proxy_pass http://v2; }}
        location / {{ proxy_pass http://$chosen; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name {traffic.STREAM_HOST};
        client_max_body_size 0;
        proxy_buffering off;
        proxy_request_buffering off;
        location / {{ proxy_pass http://films; }}
    }}
}}
"""


@contextmanager
def start(site: Site) -> Iterator[Proxy]:
    """nginx, answering."""
    (port,) = free_ports(1)
    config = site.workdir / "nginx.conf"
    config.write_text(configuration(site, port))
    argv = ["nginx", "-p", str(site.workdir), "-c", str(config)]
    with running("nginx", argv, site.workdir / "nginx.log", cpus=site.cpus) as program:
        wait_until("nginx", lambda: answers(port), program)
        yield Proxy("nginx", port, program)


def version() -> str:
    """Such as 1.22.1."""
    return subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.rpartition("/")[2].strip()


PEER = Peer(
    "nginx",
    version,
    "location and map rules, split_clients 90:10, least_conn, timeouts, next upstream on failure, access log to a file "
    "(64 KiB buffer); no retry budget, no metrics",
    start,
)
