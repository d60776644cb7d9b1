"""Templates: what they can say, that nothing else gets through, and that they end."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.kinds.webhook.event import BY_NAME, sample
from policies.kinds.webhook.template import (
    FILTERS,
    MAX_OUTPUT,
    MAX_PARTS,
    MAX_SOURCE,
    MAX_WORK,
    BadTemplate,
    Template,
    check,
)

EVENT = sample()


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("{{ title }}!", "pets.production: instance web-1-8080 is unhealthy!"),
        ("{{ data.reason }}, {{ data['agent'] }}", "reason, agent"),
        ("{{ data.revision }}|{{ data.path | default('none', true) }}", "|none"),
        ("{% if effect == 'opens' %}DOWN{% else %}UP{% endif %}", "DOWN"),
        ("{{ 'a' if service in ['x', 'pets.production'] and not link is none else 'b' }}", "a"),
        ("{% for k, v in data | items %}{{ loop.index }}{{ k }}{% if not loop.last %},{% endif %}{% endfor %}",
         "1before,2after,3reason,4agent,5version,6zone"),
        ("{{ name | upper | tojson }} {{ subject | truncate(12) }}", '"INSTANCE.UNHEALTHY" instances...'),
        ("{{ link is defined }} {{ none }}", "true "),
        ("{% raw %}{{ x }}{% endraw %}{# no #}", "{{ x }}"),
    ],
)  # fmt: skip
def test_what_can_be_said(source: str, made: str) -> None:
    """Values, their fields, conditions, one loop, a few filters."""
    assert Template(source).render(EVENT) == made


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n{{ titel }}", "line 2: no name 'titel' (did you mean 'title'?); there are: id, "),
        ("{{ data.raeson }}", "line 1: no data field 'raeson' (did you mean 'reason'?); there are: address, "),
        ("\n\n{{ title", "line 3: unexpected end of template"),
        ("{% if title %}", "line 1: Unexpected end of template"),
        ("{{ ''.__class__.__mro__ }}", "line 1: only data has fields"),
        ("{{ data.__class__ }}", "line 1: no data field '__class__'"),
        ("{{ data['__class__'] }}", "line 1: no data field '__class__'"),
        ("{{ data[title] }}", "line 1: only data has fields"),
        ("{{ title.upper }}", "line 1: title has no fields; only data has"),
        ("{{ data.items() }}", "line 1: a call is nothing for a template here"),
        ("{{ range(9) }}", "line 1: a call is nothing"),
        ("{{ title | attr('x') }}", "line 1: no filter 'attr'; there are: "),
        ("{{ title | format }}", "line 1: no filter 'format'"),
        ("{{ 5 | round(-1000000000) }}", "line 1: no filter 'round'"),
        ("{{ data | tojson(1000000000) }}", "line 1: tojson takes nothing in brackets here"),
        ("{{ title is divisibleby 3 }}", "line 1: no test 'divisibleby'; there are: "),
        ("{{ title * 1000000000 }}", "line 1: mul is nothing"),
        ("{{ 9 ** 9 ** 9 }}", "line 1: pow is nothing"),
        ("{{ title ~ title }}", "line 1: ~ is nothing"),
        ("{% set x = 1 %}", "line 1: set is nothing"),
        ("{% macro m() %}{% endmacro %}", "line 1: macro is nothing"),
        ("{% include 'x' %}", "line 1: include is nothing"),
        ("{% import 'x' as y %}", "line 1: import is nothing"),
        ("{% extends 'x' %}", "line 1: extends is nothing"),
        ("{% block b %}{% endblock %}", "line 1: block is nothing"),
        ("{% for a in title %}{% for b in title %}{% endfor %}{% endfor %}", "line 1: a loop in a loop"),
        ("{% for a in data recursive %}{% endfor %}", "line 1: a loop in a loop"),
        ("{% for a in data %}{{ loop.cycle }}{% endfor %}", "line 1: no field of a loop 'cycle'"),
        ("{{ title|tojson|tojson|tojson|tojson|tojson }}", "line 1: more than 4 filters around each other"),
        ("{{ self }}{{ varargs }}", "line 1: no name 'self'"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "line 1: nested too deeply"),
        ("{% if 1 %}" * 50 + "{% endif %}" * 50, "line 1: nested too deeply"),
        ("{{ 1" + "0" * 5000 + " }}", "line 1: Exceeds the limit"),
        (" " * (MAX_SOURCE + 1), f"line 1: {MAX_SOURCE + 1} characters; a template has at most {MAX_SOURCE}"),
        ("\n{{ title > 3 }}", "line 2: TypeError: "),
    ],
)  # fmt: skip
def test_what_cannot_be_said(source: str, said: str) -> None:
    """The line, what, and what there is."""
    with pytest.raises(BadTemplate, match=re.escape(said)):
        Template(source).render(EVENT)


def test_output_ends_at_the_limit() -> None:
    """With an error: half a body is none."""
    long = sample(text="x" * 4000)
    with pytest.raises(BadTemplate, match=f"makes more than {MAX_OUTPUT} characters"):
        Template("{% for c in data.reason %}{{ data.reason }}{% endfor %}").render(long)


@pytest.mark.parametrize("body", ['{"text": "{{ data.reason }}"}', '{"a": {{ title }}}', "{{ title }}", '{"a": 1,}'])
def test_json_has_to_come_out_as_json(body: str) -> None:
    """Whatever a program said: found when the document is put, not when it happens."""
    with pytest.raises(BadTemplate, match=r"makes no JSON of service\.down"):
        check(body, "application/json; charset=utf-8", ["service.down"])
    check(body, "text/plain", ["service.down"])


def test_json_with_its_filter_is_json() -> None:
    """Of every type of event."""
    check('{"text": {{ title | tojson }}, "why": {{ data.reason | tojson }}, "all": {{ data | tojson }}}',
          "application/vnd.x+json", BY_NAME)  # fmt: skip
    made = Template("{{ data.reason | tojson }}").render(sample(text='"\\\n\u2028</script>'))
    assert json.loads(made) == 'reason"\\\n\u2028</script>'


WORDS = "{{ }} {% %} title data . reason | tojson if for in endfor endif x ' ( ) [ ] 0 9 loop set = not , #} {# ~ * is"
PIECES = st.sampled_from(
    [*WORDS.split(), " ", "\n", '"', "__class__", "else", "{{ title }}", "{% for x in data|items %}"]
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=40))
def test_any_text_is_a_template_or_is_refused(source: str) -> None:
    """Nothing else is raised, and nothing of Python shows."""
    try:
        made = Template(source).render(EVENT)
    except BadTemplate as error:
        assert error.line >= 1
        return
    assert len(made) <= MAX_OUTPUT and "built-in method" not in made and "<bound" not in made


def test_every_filter_works() -> None:
    """On a text."""
    for name in FILTERS:
        source = f"{{% for k in data | {name} %}}{{% endfor %}}" if name == "items" else f"{{{{ title | {name} }}}}"
        Template(source).render(EVENT)


def nested(depth: int) -> str:
    """Lists between filters: the filters in a row never were more than three."""
    made = "data | string | tojson | tojson"
    for _ in range(depth):
        made = f"[{made}] | string | tojson | tojson"
    return "{{ " + made + " }}"


def test_filters_around_each_other_are_counted_through_lists() -> None:
    """A list in between does not begin anew, nor do brackets or a condition."""
    for source in (nested(1), nested(6), "{{ (1 if [title|tojson|tojson]|string|tojson else 2)|string|tojson }}"):
        with pytest.raises(BadTemplate, match="more than 4 filters around each other"):
            Template(source)
    Template("{{ [title | tojson | tojson] | string | tojson }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ [" + "data," * 1000 + "] | string | tojson | tojson | tojson }}",
        "{{ [" + "data," * 1000 + "] | length }}{{ [" + "data," * 1000 + "] }}",
        "{{ data.reason|urlencode|urlencode|urlencode|length }}" * 200,
        "{% for c in data.reason %}" + "{% if title %}{% endif %}" * 200 + "{% endfor %}",
        "{% for c in data.reason %}{% if [" + "title," * 500 + "] | length %}{% endif %}{% endfor %}",
    ],
)
def test_work_that_puts_nothing_out_ends_as_well(source: str) -> None:
    """Filters, lists and turns of a loop are counted while they go on; a list of filters' work before it is done."""
    with pytest.raises(BadTemplate, match=f"more work than {MAX_WORK} characters"):
        Template(source).render(sample(text="<&'" * 3000))


def test_the_work_of_an_honest_template_is_far_below_the_limit() -> None:
    """A table of everything that an event has, with long texts."""
    source = "{% for k, v in data | items %}{{ k | e }}: {{ v | string | truncate(200) | tojson }}\n{% endfor %}" * 5
    assert Template(source).render(sample(text="x" * 1000))


def test_a_template_has_so_many_parts() -> None:
    """Said with the number, and what a document has left."""
    with pytest.raises(BadTemplate, match=f"line 1: 3202 parts .*; at most {MAX_PARTS}"):
        Template("{{1}}" * 3200)
    used = check("{{ title }}" * 100, "text/plain", ["service.down"])
    assert used == check("{{ title }}" * 100, "text/plain", ["service.down"], most=used)
    with pytest.raises(
        BadTemplate, match=f"{used} parts, where the templates before it left {used - 1} of {MAX_PARTS}"
    ):
        check("{{ title }}" * 100, "text/plain", ["service.down"], most=used - 1)
