"""docs/agent-settings.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agent.settings.document import (
    Admin,
    AuditSettings,
    AuthnPart,
    CallerSettings,
    Checks,
    Etcd,
    GuardPart,
    Hooks,
    IdentitySettings,
    Inbound,
    InstanceSettings,
    Limits,
    LocalPart,
    MetricsPart,
    Oidc,
    Origins,
    Outbound,
    PeoplePart,
    ProgramSettings,
    RecordsPart,
    Settings,
    SinkSettings,
    Topics,
)
from agent.settings.file import parse

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "agent-settings.md").read_text()
PARTS = {
    "": Settings,
    "etcd": Etcd,
    "outbound": Outbound,
    "inbound": Inbound,
    "admin": Admin,
    "metrics": MetricsPart,
    "people": PeoplePart,
    "people.oidc": Oidc,
    "local": LocalPart,
    "limits": Limits,
    "hooks": Hooks,
    "authn": AuthnPart,
    "topics": Topics,
    "audit": AuditSettings,
    "checks": Checks,
    "origins": Origins,
    "guard": GuardPart,
    "programs": ProgramSettings,
    "identity": IdentitySettings,
    "records": RecordsPart,
    "records.sinks": SinkSettings,
}


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_is_good() -> None:
    """The whole file of the page is accepted as it stands."""
    assert parse(example(), "agent-settings.md").instances[0].checked is not None


@pytest.mark.parametrize("part", [*PARTS.values(), InstanceSettings, CallerSettings], ids=lambda part: part.__name__)
def test_every_setting_is_in_the_example_and_explained(part: type[msgspec.Struct]) -> None:
    """No setting without a word about it."""
    tables = {
        "etcd",
        "outbound",
        "inbound",
        "admin",
        "metrics",
        "people",
        "oidc",
        "local",
        "services",
        "limits",
        "hooks",
        "authn",
        "topics",
        "audit",
        "checks",
        "opa",
        "origins",
        "guard",
        "programs",
        "identity",
        "instances",
        "callers",
        "records",
        "sinks",
    }
    for name in part.__struct_fields__:
        if name not in tables:
            assert re.search(rf"^{name} = ", example(), re.MULTILINE), f"{name} is not in the example"
            assert re.search(rf"`(\w+\.)?{name}`", PAGE), f"{name} is not explained"


@pytest.mark.parametrize(
    "part",
    [
        Settings,
        Etcd,
        Outbound,
        Inbound,
        Admin,
        MetricsPart,
        LocalPart,
        Limits,
        Hooks,
        Topics,
        AuditSettings,
        Checks,
        ProgramSettings,
    ],
    ids=lambda part: part.__name__,
)
def test_the_defaults_are_those_of_the_page(part: type[msgspec.Struct]) -> None:
    """A default that is written down is the one that is used."""
    rows = dict(re.findall(r"^\| `(?:\w+\.)?(\w+)` \| `([^`|]+)` \|", PAGE, re.MULTILINE))
    checked = 0
    for field in msgspec.structs.fields(part):
        if isinstance(field.default, str | int) and field.default not in ("", 0) and field.name in rows:
            if field.name == "listen":
                continue
            assert rows[field.name] == str(field.default).lower() or rows[field.name] == str(field.default), field.name
            checked += 1
    assert checked or part not in (Settings, Etcd, Limits)


@pytest.mark.parametrize("part", ["outbound", "inbound", "admin"])
def test_the_ports_are_those_of_the_page(part: str) -> None:
    """Each listener has its own default."""
    default = getattr(Settings(), part).listen
    assert f"| `{part}.listen` | `{default}` |" in PAGE
