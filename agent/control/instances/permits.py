"""What a health check may do on this host, by who asked for it. Pure.

| who says it | a program | another port than the instance's |
| --- | --- | --- |
| agent.toml | yes | yes |
| a `health` policy | where `checks.commands` says so | those of `checks.ports` |
| a registration through the admin API | never | those of `checks.ports` |

Whoever writes agent.toml may do on this host what the agent may. Who writes policies may write them for every host at
once, and who reaches the admin API may be any program beside the agent.
"""

from __future__ import annotations

from agent.ports import Ports
from policies.kinds.health.document import HealthPolicy
from policies.language.plain import Flaw


class Permits:
    """The settings' word (`[checks]`)."""

    __slots__ = ("_commands", "_ports")

    def __init__(self, *, commands: bool = False, ports: Ports | None = None) -> None:
        self._commands = commands
        self._ports = ports or Ports()

    def of_policy(self, check: HealthPolicy, own_port: int) -> Flaw | None:
        """Why a policy's check is not carried out for an instance; None: it is."""
        if check.command is not None and not self._commands:
            return Flaw("$.command", "this agent's settings let no policy name a program (checks.commands)")
        return self._foreign_port(check, own_port)

    def of_registration(self, check: HealthPolicy, own_port: int) -> Flaw | None:
        """The same for a check that a registration through the admin API brings."""
        if check.command is not None:
            what = "programs are named by agent.toml alone: put the instance there, or check it by http, tcp or ttl"
            return Flaw("$.command", what)
        return self._foreign_port(check, own_port)

    def _foreign_port(self, check: HealthPolicy, own_port: int) -> Flaw | None:
        for name, rule in (("http", check.http), ("tcp", check.tcp)):
            port = rule.port if rule is not None else 0
            if port not in (0, own_port) and port not in self._ports:
                what = f"{port} is not the instance's own port; if it may be asked, say so in agent.toml under [checks]"
                return Flaw(f"$.{name}.port", f"{what}: ports = [{port}]")
        return None
