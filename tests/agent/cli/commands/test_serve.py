"""`shoal agent --check`: what would only be told once the agent runs, and loses records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SINK = '[[records.sinks]]\nto = "otlp+http://127.0.0.1:4318"\nkinds = ["access"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('access_log = "/nonexistent/dir/a.log"', "$.access_log: there is no folder /nonexistent/dir"),
        (
            f'{SINK}headers = {{ authorization = "/nonexistent/x" }}',
            "$.records.sinks[0].headers.authorization: there is no file /nonexistent/x",
        ),
    ],
)
def test_files_that_have_to_be_there(tmp_path: Path, text: str, said: str) -> None:
    """The folder of logs, and what sinks show to a receiver."""
    (tmp_path / "agent.toml").write_text(text)
    command = [sys.executable, "-m", "agent", "agent", "--check", "--config", str(tmp_path / "agent.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr, done.stderr
