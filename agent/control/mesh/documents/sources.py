"""Where documents say that keys of issuers are, enforced ones and those that are only watched. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.control.mesh.table import Table
from policies.kinds.authn.document import Authn
from policies.kinds.authn.source import Source
from policies.language.duration import age_s

KIND = "authn"


def sources(table: Table) -> Iterator[tuple[Source, float]]:
    """Of every document, and for how many seconds its keys count that cannot be fetched anew; some more than once."""
    found = table.in_force
    for by_pattern in (found.enforced, found.watched, table.audits.policies):
        for policy in by_pattern.get(KIND, {}).values():
            if isinstance(policy.document, Authn):
                for provider in policy.document.providers:
                    source = provider.source
                    if source is not None:
                        yield source, age_s(provider.max_age)
