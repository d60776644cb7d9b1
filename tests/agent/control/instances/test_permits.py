"""What a check may do, by who asked for it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.control.instances.permits import Permits
from agent.ports import Ports
from agent.settings.document import health_policy

CLOSED = Permits()
OPEN = Permits(commands=True, ports=Ports([81, "9000-9100"]))
COMMAND = {"command": {"argv": ["/bin/true"]}}


@pytest.mark.parametrize(
    ("permits", "check", "policy", "registration"),
    [
        (CLOSED, {"http": {}}, "", ""),
        (CLOSED, {"http": {"port": 80}}, "", ""),
        (CLOSED, {"ttl": "5s"}, "", ""),
        (CLOSED, {"tcp": {"send": "PING", "port": 81}}, "$.tcp.port", "$.tcp.port"),
        (CLOSED, {"http": {"port": 15000, "method": "DELETE"}}, "$.http.port", "$.http.port"),
        (CLOSED, COMMAND, "$.command", "$.command"),
        (OPEN, COMMAND, "", "$.command"),
        (OPEN, {"tcp": {"port": 81}}, "", ""),
        (OPEN, {"http": {"port": 9100}}, "", ""),
        (OPEN, {"http": {"port": 9101}}, "$.http.port", "$.http.port"),
    ],
)
def test_permits(permits: Permits, check: dict[str, Any], policy: str, registration: str) -> None:
    """A program by the settings alone, and never through the admin API; a foreign port by the settings."""
    typed = health_policy(check)
    for expected, fault in (
        (policy, permits.of_policy(typed, 80)),
        (registration, permits.of_registration(typed, 80)),
    ):
        assert ("" if fault is None else fault.path) == expected
    refused = permits.of_policy(typed, 80)
    if refused is not None and "port" in refused.path:
        assert "ports = [" in refused.reason, "it says what to write"


@pytest.mark.parametrize("entry", [0, -1, 65536, "a", "9-8", "1-70000", "", "80,81", "８０"])
def test_what_is_no_port(entry: int | str) -> None:
    """Is refused, with what would be right."""
    with pytest.raises(ValueError, match="no port and no range of ports"):
        Ports([entry])
