"""Access records as lines of text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.proxy.report.record import Record
from agent.requests.format import NAMES, Format, format_of
from agent.settings.file import SettingsError, parse
from policies.kinds.log.document import Field

RECORD: dict[str, Any] = {
    "time": 1795543200.25,
    "caller": "shop.production",
    "client": "127.0.0.1",
    "method": "GET",
    "target": "/cats?n=3",
    "protocol": "HTTP/1.1",
    "status": 200,
    "duration_s": 0.0031,
    "bytes_out": 412,
    "user_agent": 'curl "8.5"',
    "verdicts": ["route: canary", "fault: slow"],
    "headers": {"x-tenant": "blue", "referer": "http://shop/"},
}


def line(template: str, **record: Any) -> str:
    return Format(template).line(json.dumps({**RECORD, **record}).encode()).decode()


def test_a_document_may_choose_each_field_of_a_record() -> None:
    """And none that there is not: policies know no record."""
    assert list(msgspec.inspect.type_info(Field).values) == sorted(Record.__struct_fields__)  # type: ignore[attr-defined]


def test_the_format_of_web_servers() -> None:
    """As their log analysers read it."""
    said = (
        '127.0.0.1 - shop.production [24/Nov/2026:18:00:00 +0000] "GET /cats?n=3 HTTP/1.1" 200 412 '
        '"http://shop/" "curl \\"8.5\\""'
    )
    assert line("combined") == said


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{time} {time_s}", "2026-11-24T18:00:00.250Z 1795543200.250000"),
        ("{{{method}}}", "{GET}"),
        ("{duration_ms} ms, {headers.X-Tenant}, {verdicts}", "3.100 ms, blue, route: canary, fault: slow"),
        ("{flag} {headers.no} {endpoint}", "- - -"),
        ("{headers}", "x-tenant: blue, referer: http://shop/"),
    ],
)
def test_a_template(template: str, said: str) -> None:
    """Fields in braces, and what follows from them."""
    assert line(template) == said


def test_no_caller_ends_a_field_or_a_line() -> None:
    """Nor speaks to a terminal."""
    said = line('"{target}" {status}', target='/a" 500\n"\x1b[2J\u202e\\')
    assert said == '"/a\\" 500\\n\\"\\x1b[2J\\u202e\\\\" 200'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{method} {statsu}", "column 10: no field 'statsu' (did you mean 'status'?); there are: time, "),
        ("{method", "column 1: a { that belongs to no field; write {{ for one"),
        ("{method}} x", "column 9: a } that belongs to no field"),
        ("{}", "column 1: no field ''"),
        ("{headers.}", "column 1: no field 'headers.'"),
        ("{headers.NAME}x{headers.NAME", "column 16: a {"),
        ("jsn", "'jsn' names no field: write json, combined, or a template such as {method}"),
        ("{method}\n", "a record is one line"),
        ("{method}" * 1000, "a template of 8000 characters; at most 4096"),
    ],
)
def test_a_template_that_errs_is_refused(text: str, words: str) -> None:
    """When it is read, with the column."""
    with pytest.raises(ValueError) as error:
        format_of(text)
    assert words in str(error.value)


def test_the_agent_does_not_start_with_one() -> None:
    """And says in which line of its settings it is."""
    with pytest.raises(SettingsError, match=r"^a.toml:2: access_log_format: column 1: no field 'x'"):
        parse('access_log = "-"\naccess_log_format = "{x}"', "a.toml")
    with pytest.raises(SettingsError, match=r"^a.toml:4: records.sinks\[0\].format: column 1: no field 'x'"):
        parse('[[records.sinks]]\nto = "-"\nkinds = ["access"]\nformat = "{x}"', "a.toml")
    with pytest.raises(SettingsError, match=r"^a.toml:4: records.sinks\[0\].format: of access records only"):
        parse('[[records.sinks]]\nto = "-"\nkinds = ["audit"]\nformat = "combined"', "a.toml")
    with pytest.raises(SettingsError, match=r"^a.toml:1: access_log_format: of access_log, and there is none"):
        parse('access_log_format = "combined"', "a.toml")


@given(
    st.text(max_size=40),
    st.dictionaries(st.sampled_from(list(NAMES)), st.none() | st.integers() | st.text() | st.floats()),
)
def test_none_errs_on_a_record(text: str, record: dict[str, Any]) -> None:
    """Whatever is in it, and whatever the template is."""
    try:
        found = Format(text + "{method}{time}{time_common}{duration_ms}{headers.a}")
    except ValueError:
        return
    told = found.lines(msgspec.json.encode(record) + b"\n{broken\n\xff\n")
    assert told.count(b"\n") == 3
