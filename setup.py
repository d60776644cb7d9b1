"""Compiles the request path with mypyc when a wheel is built; pyproject.toml says everything else.

The same typed modules run with and without it; compiled they cost less than half the CPU. A module that is compiled
says so in its first line, wherever it stands. A checkout that is installed with `pip install -e` is not compiled, so
that what is edited is what runs. Where nothing can be compiled, or with SHOAL_PURE=1, the wheel is pure Python. Either
way it carries agent/built.json, which says what was made and why (agent/build.py reads it).
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.sysconfig import customize_compiler
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MARK = "# mypyc: compiled\n"
"""Modules of plain classes and functions: documents are msgspec's, which are C already."""
ROOMS = ("agent", "policies", "registry")


def marked() -> list[str]:
    """The modules that say that they are compiled."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            with path.open(encoding="utf-8") as text:
                if text.readline() == MARK:
                    found.append(path.relative_to(ROOT).as_posix())
    return found


def hindrance() -> str:
    """Why nothing is compiled here; empty where it is. A compiler counts once it has made a library of Python's."""
    if os.environ.get("SHOAL_PURE"):
        return "SHOAL_PURE was set when it was installed"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no Python.h when it was installed"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.c")
        probe.write_text("#include <Python.h>\nPyObject *probe(void) { return PyLong_FromLong(1); }\n")
        try:
            compiler = new_compiler()
            customize_compiler(compiler)
            objects = compiler.compile([str(probe)], folder, include_dirs=[sysconfig.get_path("include")])
            compiler.link_shared_object(objects, str(Path(folder, "probe.so")))
        except Exception as error:  # whatever keeps a compiler from working, the installation goes on without it
            print(f"the C compiler does not work: {error}", file=sys.stderr)
            return "no working C compiler when it was installed"
    return ""


def build_is_asked_for() -> bool:
    """A wheel, or a folder like one; not metadata, not a checkout's own installation."""
    return bool({"bdist_wheel", "build"} & set(sys.argv))


WHY_NOT = hindrance() if build_is_asked_for() else "a checkout"


def extensions() -> list[Extension]:
    """One shared library for all of them; nothing where it cannot or shall not be made."""
    if WHY_NOT:
        return []
    from mypyc.build import mypycify

    os.chdir(ROOT)
    # What is not compiled may import what the build does not have: only the types that compiled modules see count.
    options = ["--follow-imports=silent", *marked()]
    target = {"target_dir": str(BASE / "c")}
    # A file of C a module: one for all of them costs the compiler three times the memory, and is one processor's work.
    opt_level = os.environ.get("SHOAL_OPT", "3")
    made = mypycify(options, opt_level=opt_level, debug_level="0", group_name="shoal", multi_file=True, **target)
    for extension in made:
        extension.extra_compile_args.append("-Wno-error")  # another compiler's new warning is no reason to stay without
    return made


class BuildExt(build_ext):
    """Compiles as many files at a time as there are processors."""

    def build_extensions(self) -> None:
        one_by_one = self.compiler.compile

        def side_by_side(sources: list[str], output_dir: str = "", **how: Any) -> list[str]:
            for source in sources:
                Path(output_dir, source.lstrip(os.sep)).parent.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda source: one_by_one([source], output_dir=output_dir, **how), sources)
                return [path for paths in made for path in paths]

        self.compiler.compile = side_by_side
        super().build_extensions()


class BuildPy(build_py):
    """Adds what was made."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            modules = [] if WHY_NOT else [name.removesuffix(".py").replace("/", ".") for name in marked()]
            told = {"compiled": modules, "why_not": WHY_NOT}
            self._built().write_text(json.dumps(told, indent=1) + "\n")

    def _built(self) -> Path:
        return Path(self.build_lib, "agent", "built.json")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        made = [] if self.editable_mode else [str(self._built())]
        return [*super().get_outputs(include_bytecode), *made]


def base() -> Path:
    """Where it is built: a new folder each time, so that no wheel has a module which is gone from the sources."""
    folder = tempfile.mkdtemp(prefix="shoal-build-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


if build_is_asked_for():
    BASE = base()
    commands = {"build_py": BuildPy, "build_ext": BuildExt}
    setup(ext_modules=extensions(), cmdclass=commands, options={"build": {"build_base": str(BASE)}})
else:
    setup(cmdclass={"build_py": BuildPy})
