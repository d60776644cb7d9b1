"""`shoal apikey`: keys that programs show to services, made where nobody keeps them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from agent.cli.failure import Exit, Failure
from agent.cli.options import Options

app = typer.Typer(no_args_is_help=True, help="Make keys that programs show to services (`authn`).")


@app.callback()
def _group() -> None:
    """Keys for programs."""


@app.command()
def new(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="What it is called, such as `ci-2026`; it stands in the key.")],
    sub: Annotated[str, typer.Option("--sub", "-s", help="Whose it is: its claim `sub`.")] = "",
    claim: Annotated[list[str] | None, typer.Option("--claim", help="Another claim: `tier=gold`; repeatable.")] = None,
    not_after: Annotated[
        str, typer.Option("--not-after", help="When it ends by itself, such as 2027-06-01T00:00:00Z.")
    ] = "",
) -> None:
    """Make an API key: print it, this once, and what an `authn` document has of it, which is its hash.

    Nothing is put anywhere, and nobody is asked.

    Example:  shoal apikey new ci-2026 --sub ci --not-after 2027-06-01T00:00:00Z
    """
    import msgspec

    from policies.kinds.authn.api_keys import SECRET_BYTES, ApiKey, ApiKeys, made
    from policies.language.document import convert
    from policies.language.plain import Flaw

    options: Options = context.obj
    try:
        key, hashed = made(id, os.urandom(SECRET_BYTES))
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None
    claims = {"sub": sub or id, **_claims(claim or [])}
    entry = {"id": id, "hash": hashed, "claims": claims, **({"not_after": not_after} if not_after else {})}
    try:
        convert({"keys": [entry]}, ApiKeys).check("$")
    except Flaw as flaw:
        raise Failure(f"{flaw.path.removeprefix('$.keys[0].')}: {flaw.reason}", Exit.USAGE) from None
    parsed = msgspec.convert(entry, ApiKey)
    if not_after and datetime.fromisoformat(not_after.replace("Z", "+00:00")) <= datetime.now(UTC):
        raise Failure(f"--not-after: {not_after} is over: a key that has ended lets nobody in", Exit.USAGE)
    if options.printer.json:
        options.printer.value({"key": key, "entry": entry})
        return
    options.printer.text(key)
    options.printer.text(msgspec.json.encode(parsed).decode())
    options.printer.note("the first line is the key, which nobody keeps; the second stands in `api_keys.keys`")


def _claims(given: list[str]) -> dict[str, str]:
    """Raises Failure."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals or name in found or name == "sub":
            raise Failure(
                f"--claim {text!r} is none such as tier=gold, each name once; --sub says whose it is", Exit.USAGE
            )
        found[name] = value
    return found
