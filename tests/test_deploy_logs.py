"""deploy/logs/: settings of programs that read our records. None of them can be had here: what they name is checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.control.records.records import Records
from agent.proxy.report.record import Record
from agent.settings.file import parse
from agent.settings.sinks import place_of

LOGS = Path(__file__).parents[1] / "deploy/logs"
VRL = os.environ.get("SHOAL_VRL", "")
MADE = """import json, sys, pyvrl
print(json.dumps(pyvrl.Transform(sys.argv[1]).remap({"message": sys.argv[2]}), default=str))
"""
FIELDS = frozenset(Record.__struct_fields__)


def settings(name: str) -> Any:
    text = (LOGS / name).read_text()
    assert "UNTRIED" in text, "who reads it has to know"
    return yaml.safe_load(text)


def test_fluent_bit_names_fields_of_a_record() -> None:
    """As labels; few values, so that Loki stays quick."""
    (output,) = settings("fluent-bit.yaml")["pipeline"]["outputs"]
    labels = [each.removeprefix("$") for each in output["label_keys"].split(",")]
    assert set(labels) <= FIELDS and set(labels) <= {"service", "direction"}


def test_vector_names_fields_of_a_record() -> None:
    """In its program, and as labels."""
    found = settings("vector.yaml")
    assert {".time"} <= set(re.findall(r"\.\w+", found["transforms"]["record"]["source"]))
    named = re.findall(r"{{ (\w+) }}", " ".join(found["sinks"]["loki"]["labels"].values()))
    assert len(named) == 2 and set(named) <= FIELDS


@pytest.mark.skipif(not VRL, reason="scripts/interop vector has the compiler")
@pytest.mark.parametrize("time", [1795000000.123456, 1795000000.0])
def test_vector_makes_of_a_record_what_it_sends(time: float) -> None:
    """Its program, by the compiler of its own language: all of the record, with its own time as the event's."""
    source = settings("vector.yaml")["transforms"]["record"]["source"]
    texts = ("outbound", "", "pets.production", "pets-1", "GET", "pets", "/")
    record = msgspec.to_builtins(Record(time, *texts, 200, 0.002, 0, 100, 1, "id", ""))
    words = [sys.executable, "-c", MADE, f"{source}\n.", json.dumps(record)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": VRL}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made.pop("timestamp") == f"2026-11-18 11:06:40{'.123456' if time % 1 else ''}+00:00" and made == record


def test_loki_is_sent_what_it_indexes() -> None:
    """By agents themselves: their settings are good, and the path is the one that Loki has."""
    found = settings("loki.yaml")["limits_config"]["otlp_config"]["resource_attributes"]["attributes_config"]
    text = (LOGS / "agent-loki.toml").read_text()
    made = parse(text, "agent-loki.toml")
    (sink,) = Records(made).sinks
    sent = repr(vars(sink)["_envelope"]._resource)
    assert all(name in sent for each in found for name in each["attributes"])
    assert place_of(made.records.sinks[0].to).path == "/otlp/v1/logs"
