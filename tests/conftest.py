"""Makes `tests.support` importable, and nothing else."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))
