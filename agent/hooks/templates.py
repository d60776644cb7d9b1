"""Bodies out of templates. The language and its limits are webhook.template's; documents with a bad one were refused.

Rendering is bounded by them, but is work of a policy's choosing: the caller does it in a thread, with a deadline.
"""

from __future__ import annotations

from functools import lru_cache

from policies.kinds.webhook.document import Body
from policies.kinds.webhook.event import Event
from policies.kinds.webhook.template import BadTemplate as BadTemplate
from policies.kinds.webhook.template import Template


def render(body: Body, event: Event) -> bytes:
    """Raises BadTemplate with the line and what, for instance when too much comes out."""
    return _compiled(body.body).render(event).encode("utf-8", "replace")


@lru_cache(maxsize=256)
def _compiled(source: str) -> Template:
    return Template(source)
