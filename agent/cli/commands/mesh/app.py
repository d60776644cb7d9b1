"""`shoal mesh`: its commands."""

from __future__ import annotations

import typer

from agent.cli.commands.mesh.grants import create, grant, show
from agent.cli.commands.mesh.migrate import migrate
from agent.cli.commands.mesh.policies import accept

app = typer.Typer(no_args_is_help=True, help="Say what is meant, for all of a mesh.")


@app.callback()
def mesh() -> None:
    """Say what is meant, for all of a mesh."""


app.command()(accept)
app.command()(migrate)
app.command()(create)
app.command()(grant)
app.command()(show)
