"""How it answers itself: in the form of the API."""

from __future__ import annotations

import json
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from agent.ui.answers import ALWAYS
from agent.visible import visible_json


def told(value: Any, status: int = 200, media_type: str = "application/json") -> Response:
    """JSON, which nobody keeps."""
    text = visible_json(json.dumps(value, indent=1, ensure_ascii=False)) + "\n"
    headers = {**ALWAYS, "cache-control": "no-store"}
    return Response(text.encode("utf-8", "replace"), status, headers, media_type)


def problem(status: int, detail: str, path: str = "$") -> Response:
    """A problem document (RFC 9457)."""
    title = HTTPStatus(status).phrase
    value = {"type": "about:blank", "title": title, "status": status, "detail": detail, "path": path}
    return told(value, status, "application/problem+json")


async def body_of(request: Request, most_bytes: int) -> bytes | None:
    """A request's body; None: it is more than that."""
    body = b""
    async with aclosing(request.stream()) as stream:
        async for piece in stream:
            body += piece
            if len(body) > most_bytes:
                return None
    return body


def to(place: str) -> Response:
    """Leads to a place of this process."""
    return Response(status_code=303, headers={**ALWAYS, "location": place, "cache-control": "no-store"})
