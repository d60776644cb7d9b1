"""A compiled policy, by Microsoft's rego-cpp (`regopy`). Imported by evaluators only, which may be killed.

Beside another library of C++ (grpc, CEL) it aborts the process: its allocator is handed what another's has given out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from agent.rego.words import LIBRARY, MISSING
from policies.kinds.authz.rego_plan import Analysis, analyse
from policies.language.plain import Flaw, below
from policies.rego import placed

_ERROR: Final = re.compile(
    r"\(error(?: \d+:(?P<file>[^|\s]*)\|(?P<at>\d+)\|\d+)?\s*\(errormsg \d+:(?P<said>[^\n]*?)\)\n"
)
_MEMORY: Final = "/dev/shm"  # noqa: S108 - a folder of one's own is made in it
MAX_SAID: Final = 200
PREFIX: Final = "shoal-rego-"
"""Of a folder of one evaluator's, before its number."""


def folders() -> list[Path]:
    """Where something can be written for a moment: memory first."""
    found = [Path(_MEMORY), Path(tempfile.gettempdir())]
    return [folder for folder in found if os.access(folder, os.W_OK)]


class Program:
    """One, ready to be asked."""

    def __init__(self, modules: dict[str, str], data: Any, query: str, path: str) -> None:
        """`path`: of `rego` in its document. Raises Flaw."""
        try:
            rego: Any = import_module(LIBRARY)
        except ImportError:
            raise Flaw(path, MISSING) from None
        self._rego = rego
        self._query = query
        self._entry = query.removeprefix("data.").replace(".", "/")
        self._interpreter = rego.Interpreter()
        self._interpreter.log_level = rego.LogLevel.NONE
        # The library tells of a file's name what stands behind its last slash.
        names = {f"module-{n}.rego": name for n, name in enumerate(modules)}
        try:
            plan = self._compile({alias: modules[name] for alias, name in names.items()}, data, path)
            self.analysis: Analysis = analyse(plan, query, data, path)
        except Flaw as flaw:
            raise _renamed(flaw, names) from None

    def _compile(self, modules: dict[str, str], data: Any, path: str) -> Any:
        interpreter = self._interpreter
        try:
            interpreter.add_data_json(json.dumps(data, ensure_ascii=False))
        except self._rego.RegoError as error:
            raise Flaw(below(path, "data"), _said(str(error))) from None
        try:
            for name, source in modules.items():
                interpreter.add_module(name, source)
            self._bundle = interpreter.build(None, [self._entry])
        except self._rego.RegoError as error:
            raise _flaw(str(error), modules, below(path, "modules")) from None
        if not self._bundle.ok():
            raise Flaw(below(path, "modules"), "they do not compile together")
        return self._plan()

    def _plan(self) -> Any:
        """As the library writes it, which it does to a folder only. Raises OSError where there is no room for it."""
        plan: Any = None
        for place in folders():
            folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place)
            try:
                target = Path(folder, "bundle")
                self._interpreter.save_bundle(str(target), self._bundle)
                plan = json.loads((target / "plan.json").read_bytes())
                break
            except (self._rego.RegoError, ValueError, OSError):
                continue  # cut off, or not there
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        if plan is None:
            raise OSError(f"its plan cannot be written to {' or '.join(map(str, folders()))}")
        functions = plan["static"]["builtin_funcs"]  # with those that it knows by name only
        plan["static"]["builtin_funcs"] = [each for each in functions if self._interpreter.is_builtin(each["name"])]
        return plan

    def ask(self, told: Any) -> tuple[bool, str, bool]:
        """Whether it allows, why, and whether it failed to say."""
        self._interpreter.set_input_term(json.dumps(told, ensure_ascii=False))
        try:
            output = self._interpreter.query_bundle_entrypoint(self._bundle, self._entry)
            if not output.ok():
                return False, f"{self._query} cannot be evaluated: {_said(str(output))}", True
            values = output.results[0].expressions if output.results else []
        except (self._rego.RegoError, ValueError) as error:  # ValueError: an error where JSON was expected
            return False, f"{self._query} cannot be evaluated: {_said(str(error))}", True
        if not values:
            return False, f"{self._query} is undefined", False
        if isinstance(values[0], bool):
            return values[0], f"{self._query} is {str(values[0]).lower()}", False
        return False, f"{self._query} is neither true nor false", True


def _flaw(error: str, modules: dict[str, str], path: str) -> Flaw:
    found = _ERROR.search(error)
    if found is None or found["file"] not in modules:
        return Flaw(path, _said(error))
    source = modules[found["file"]].encode()
    offset = len(source[: int(found["at"])].decode("utf-8", "replace"))
    return Flaw(
        placed(below(path, found["file"]), modules[found["file"]], offset), f"no Rego: {found['said'][:MAX_SAID]}"
    )


def _renamed(flaw: Flaw, names: dict[str, str]) -> Flaw:
    """With the place as its document calls it."""
    for alias, name in names.items():
        if below("", alias) in flaw.path:
            return Flaw(flaw.path.replace(below("", alias), below("", name), 1), flaw.reason)
    return flaw


def _said(error: str) -> str:
    found = _ERROR.search(error)
    words = found["said"] if found is not None else " ".join(error.split())
    return f"no Rego: {words[:MAX_SAID]}" if found is not None else words[:MAX_SAID]
