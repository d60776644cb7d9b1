"""`[people]`, and what does not go together in it."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from agent.settings.document import PeoplePart, Settings
from agent.settings.oidc import called
from agent.settings.oidc import check as check_oidc
from policies.language.plain import Flaw

_NAME: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII | re.IGNORECASE)


def names(settings: Settings) -> list[str]:
    """How browsers call this agent at the people's port, besides by its address."""
    return [settings.host, *settings.people.names, *filter(None, [called(settings.people.oidc)])]


def check(people: PeoplePart) -> None:
    """Raises Flaw with the path of the setting."""
    if people.names and not people.listen:
        raise Flaw("$.people.names", "nobody could call the agent so: people.listen says where people may")
    for number, name in enumerate(people.names):
        if not _NAME.fullmatch(name) or _is_address(name):
            raise Flaw(
                f"$.people.names[{number}]", "a name without a port, such as mesh.corp.example; addresses need none"
            )
    if people.key and not people.certificate:
        raise Flaw("$.people.certificate", "missing: the chain that people.key is for")
    if people.certificate and not people.names and not people.oidc.redirect:
        raise Flaw("$.people.names", "missing: the names that people.certificate is for")
    for field in ("certificate", "key"):
        if (path := getattr(people, field)) and not path.startswith("/"):
            raise Flaw(f"$.people.{field}", "a whole path, such as /etc/shoal/web.pem")
    check_oidc(people.oidc, bool(people.listen))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
