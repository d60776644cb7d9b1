"""What is wrong with a request, as RFC 9457 has it: what, where, and what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from agent.control.admin.door import Answer

ROOT: Final = "/api/v1"
"""What the paths of this version begin with."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Meta(description="Always about:blank: the status says which kind of problem it is")]
    title: Annotated[str, Meta(description="The status, in words")]
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[str, Meta(description="What is wrong, and what would be right")]
    path: Annotated[str, Meta(description="Where in the query ($.limit) or the body ($.headers[0].name); $: the whole")]


class ProblemAnswer(Answer):
    """With the media type of such documents."""

    media_type = "application/problem+json"


def problem(status: int, detail: str, path: str = "$", headers: Mapping[str, str] | None = None) -> Response:
    """An answer."""
    told = Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail, path=path)
    return ProblemAnswer(msgspec.to_builtins(told), status, dict(headers or {}))
