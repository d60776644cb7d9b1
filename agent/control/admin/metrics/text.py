"""How metrics are written: OpenMetrics 1.0, or Prometheus' text format 0.0.4. Pure.

Laws
- A line is made once, as text: no object stands for a sample. So many small objects would have the collector of garbage
  go through everything that control holds, and would cost more than all else that a page costs.
- What comes from outside is escaped here and nowhere else, in `labelled`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE, HISTOGRAM, INFO = "counter", "gauge", "histogram", "info"
_UNITS: Final = ("seconds", "bytes")
_ODD: Final = re.compile(r'[\\"\n]|[^\x00-\x7f]')


class Family(NamedTuple):
    """A metric, whatever it is of."""

    name: str
    """Without `_total`, `_info` and their like."""
    type: str
    text: str
    labels: tuple[str, ...] = ()


class Writer:
    """One page."""

    def __init__(self, *, open_metrics: bool) -> None:
        self.open_metrics = open_metrics
        self._lines: list[str] = []

    def begin(self, family: Family) -> str:
        """Say what the lines that follow are of; returns the name that they begin with."""
        name, type, text, _ = family
        sampled = name + {COUNTER: "_total", INFO: "_info"}.get(type, "")
        said = name if self.open_metrics else sampled
        add = self._lines.append
        add(f"# HELP {said} {_help(text, quotes=self.open_metrics)}\n")
        add(f"# TYPE {said} {type if self.open_metrics or type != INFO else GAUGE}\n")
        unit = name.rpartition("_")[2]
        if self.open_metrics and unit in _UNITS and type != INFO:
            add(f"# UNIT {said} {unit}\n")
        return sampled

    def write(self, family: Family, samples: Iterable[tuple[Sequence[str], float]]) -> None:
        """All of one: the values of its labels, and the number. Labels are told in the order of their names."""
        name, labels, add = self.begin(family), sorted(family.labels), self._lines.append
        order = [family.labels.index(label) for label in labels]
        for values, number in samples:
            add(f"{name}{labelled(labels, [values[place] for place in order])} {number_of(float(number))}\n")

    def add(self, lines: str) -> None:
        """Lines that somebody has made himself."""
        self._lines.append(lines)

    def page(self) -> bytes:
        """All of it."""
        if self.open_metrics:
            self._lines.append("# EOF\n")
        return "".join(self._lines).encode()


def asks_for_open_metrics(accept: str) -> bool:
    """Whether an Accept header names OpenMetrics, and does not rule it out (`q=0`)."""
    for part in accept.split(","):
        media_type, *parameters = (word.strip().lower() for word in part.split(";"))
        if media_type == "application/openmetrics-text":
            return not any(word.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for word in parameters)
    return False


def labelled(names: Sequence[str], values: Sequence[str]) -> str:
    """`{service="pets",status="2xx"}`; empty without labels."""
    if not names:
        return ""
    return "{" + ",".join([f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True)]) + "}"


def escaped(value: str) -> str:
    """A label's value. What is no text in UTF-8 becomes such."""
    if _ODD.search(value) is None:
        return value
    value = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def number_of(number: float) -> str:
    """As Go reads it, too."""
    if isinstance(number, int):
        return str(int(number))
    if number.is_integer() and abs(number) < 1e15:
        return f"{number:.1f}"
    if math.isfinite(number):
        return repr(number)
    return "NaN" if math.isnan(number) else ("+Inf" if number > 0 else "-Inf")


def _help(text: str, *, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text
