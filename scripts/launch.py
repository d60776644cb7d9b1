"""`shoal` of a checkout's environment: scripts/setup puts it in the place of .venv/bin/shoal.

scripts/compile keeps a wheel, unpacked, under the digest of the sources that it was built from. When the checkout is
what it was then, that wheel is what runs, whole; when anything in it was edited, the checkout is, whole, interpreted.
`shoal --version` says which.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import IO

ROOMS = ("agent", "policies", "registry")
BESIDE = ("setup.py", "pyproject.toml")


def sources(root: Path) -> list[Path]:
    """What a wheel is made of, in an order."""
    files = [path for room in ROOMS for path in (root / room).rglob("*") if path.is_file()]
    return [*sorted(path for path in files if path.parent.name != "__pycache__"), *(root / name for name in BESIDE)]


def place(root: Path) -> Path:
    """Where the wheel of these very sources for this very Python is, or is to be."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sources(root):
        content = path.read_bytes()
        digest.update(b"%b\0%d\0%b" % (str(path.relative_to(root)).encode(), len(content), content))
    return root / ".cache" / "compiled" / digest.hexdigest()[:16]


def chosen() -> IO[bytes] | None:
    """Put the wheel before the checkout, if it is there; the file says, while it is open, that it is in use."""
    found = find_spec("agent")
    if found is None or found.origin is None:
        return None
    wheel = place(Path(found.origin).resolve().parent.parent)
    try:
        used = (wheel / "complete").open("rb")
    except OSError:
        return None
    fcntl.flock(used, fcntl.LOCK_SH)
    sys.path.insert(0, str(wheel))
    return used


if __name__ == "__main__":
    in_use = chosen()
    from agent.cli.main import main

    sys.exit(main())
