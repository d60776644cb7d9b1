"""Compiles the request path with mypyc when a wheel is built; pyproject.toml says everything else.

The same typed modules run with and without it; compiled they cost less than half the CPU. A checkout that is installed
with `pip install -e` is not compiled, so that what is edited is what runs. Without a C compiler, or with SHOAL_PURE=1,
the wheel is pure Python.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

PROXY = (
    "access answers attempt callers choosing connection downstream exchange framing guards head hedging lateness "
    "listener mirroring outgoing pacing peers pool reactor retries shedding speaker stats storing story table throttle "
    "tunnel upstream view waiting words worker"
)
POLICIES = (
    "endpoint hashing kinds/balance/algorithms kinds/balance/decide kinds/balance/entries kinds/balance/ewma "
    "kinds/balance/locality kinds/balance/maglev kinds/balance/ring kinds/breaker/circuit kinds/outlier/ejector "
    "kinds/ratelimit/buckets kinds/retry/budget kinds/retry/quantile kinds/route/split kinds/shadow/decide "
    "kinds/shed/decide kinds/shed/limiter"
)
COMPILED = [
    *(f"agent/proxy/{name}.py" for name in PROXY.split()),
    *(f"policies/{name}.py" for name in POLICIES.split()),
]
"""Modules of plain classes and functions: documents are msgspec's, which are C already."""


def extensions() -> list[object]:
    """One shared library for all of them; nothing where it cannot or shall not be made."""
    if not {"bdist_wheel", "build"} & set(sys.argv) or os.environ.get("SHOAL_PURE"):
        return []
    compiler = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
    if not compiler or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        print("no C compiler or no Python.h: the request path stays interpreted, at twice the CPU", file=sys.stderr)
        return []
    from mypyc.build import mypycify

    os.chdir(Path(__file__).parent)
    return mypycify(COMPILED, opt_level=os.environ.get("SHOAL_OPT", "3"), debug_level="0", group_name="shoal")


setup(ext_modules=extensions())
