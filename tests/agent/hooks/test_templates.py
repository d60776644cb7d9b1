"""Bodies out of templates; what may stand in one is tested with policies.kinds.webhook.template."""

import json

import pytest

from agent.hooks.templates import BadTemplate, render
from policies.kinds.webhook.document import Body
from policies.kinds.webhook.event import sample


def test_a_body_is_made_of_the_event() -> None:
    """As UTF-8."""
    body = Body(body='{"text": {{ title | tojson }}, "why": {{ data.reason | tojson }}}')
    assert json.loads(render(body, sample(text=" “é”"))) == {
        "text": "pets.production: instance web-1-8080 is unhealthy",
        "why": "reason “é”",
    }


def test_a_failure_says_where() -> None:
    """Though the template was good when it was put: this event's data is of another kind."""
    with pytest.raises(BadTemplate, match="line 2: "):
        render(Body(body="\n{{ data.reason > 3 }}"), sample())
