"""Whether etcd is reached through a proxy: the settings' word, whatever the environment says."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def through(proxy: str) -> tuple[tuple[str, str], ...]:
    """Channel options for a proxy, or for none whatever the environment says. Raises ValueError.

    gRPC has two ways to a proxy. The one by name asks the environment (no_proxy) even where the channel says which; the
    one by address asks it (GRPC_ADDRESS_HTTP_PROXY) where the channel says nothing. So something is always said.
    """
    if not proxy:
        return (("grpc.address_http_proxy_enabled_addresses", "255.255.255.255/32"),)
    try:
        parts = urlsplit(proxy)
        address, port = ipaddress.ip_address(parts.hostname or ""), parts.port
        if parts.scheme != "http" or not port or parts.username or parts.path.strip("/"):
            raise ValueError
    except ValueError:
        raise ValueError("an HTTP proxy for etcd is http://ADDRESS:PORT, such as http://10.0.0.3:3128") from None
    host = f"[{address}]" if address.version == 6 else str(address)
    return (
        ("grpc.address_http_proxy", f"{host}:{port}"),
        ("grpc.address_http_proxy_enabled_addresses", "0.0.0.0/0,::/0"),
    )
