"""The document of the API, OpenAPI 3.1, made of the types of its operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, get_args, get_origin

import msgspec

import agent
from agent.control.admin.v1.operation import JSON, Operation
from agent.control.admin.v1.problem import ROOT, Problem
from agent.control.host.rights import Right

_IN_PATH: Final = re.compile(r"{(\w+)}")
REF: Final = "#/components/schemas/{name}"
PLACES: Final = {
    "service": "A service, such as pets.production",
    "host": "An agent, by its host's name",
    "kind": "A kind of policy, such as route",
    "pattern": "What a policy is put for: pets.production, *.production or *",
    "id": "An instance of that service, or an event",
}
"""What stands in paths."""
DESCRIPTION: Final = (
    "What an agent of Shoal knows and runs, what all agents do (`scope=mesh`), and what its users and operators have "
    "it do. Served on the admin port for whoever is on the host, on the agent's own socket, where the kernel says who "
    "asks, and on the people's port for who has logged in, by the role view, tap or operate. Operations say who may; "
    "those that say nothing are for all of them. Of pages in browsers the agent's own is served, and no other."
)
WHO: Final = {
    Right.READ: "Not on the admin port: for users of the host who may operate the agent or tap, and people with a "
    "role.",
    Right.TAP: "Not on the admin port: for users of the host who may operate the agent or tap, and people with the "
    "role tap or operate.",
    Right.SERVE: "Not on the admin port: for users of the host who may be the service, who may do this to what they "
    "registered themselves, and for who may operate.",
    Right.OUTPUT: "Not on the admin port: for users of the host who may operate the agent or tap, and people with the "
    "role tap or operate; any other user of the host has what his own programs write.",
    Right.OPERATE: "Not on the admin port: for users of the host who may operate the agent, and people with that role.",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Everything."""
    types: list[Any] = [Problem]
    for operation in operations:
        types += [operation.gives, operation.query, *([operation.takes] if operation.takes else [])]
    _, schemas = msgspec.json.schema_components(types, ref_template=REF)
    queries = {operation.query.__name__ for operation in operations}
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(f"{ROOT}{operation.path}", {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shoal",
            "version": agent.VERSION,
            "summary": "One agent's view of a mesh, and the mesh by way of it",
            "description": DESCRIPTION,
        },
        "servers": [{"url": "/", "description": "The agent that serves this document"}],
        "paths": paths,
        "components": {"schemas": {name: each for name, each in schemas.items() if name not in queries}},
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(schemas[operation.query.__name__])],
        "responses": _responses(operation),
    }
    if operation.right in WHO:
        found["description"] = WHO[operation.right]
    if operation.takes is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(operation.takes)}}}
    return found


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    return [
        {"name": name, "in": "path", "required": True, "description": PLACES[name], "schema": text}
        for name in _IN_PATH.findall(operation.path)
    ]


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", ())
    found = []
    for name, told in schema.get("properties", {}).items():
        described = {key: value for key, value in told.items() if key not in ("description", "default")}
        parameter = {"name": name, "in": "query", "required": name in required, "schema": described}
        found.append(parameter | ({"description": told["description"]} if "description" in told else {}))
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    refused = {"content": {"application/problem+json": {"schema": _ref(Problem)}}}
    said = {
        "400": "Something in it is not understood; `path` says where",
        "403": "Another page than the agent's own asks, or somebody who may not",
    }
    if _IN_PATH.search(operation.path):
        said["404"] = "There is no such thing"
    if operation.takes is not None:
        said["413"] = "The body is too large"
        said["415"] = "The body is not JSON"
    if operation.takes is not None or "{host}" in operation.path or "scope" in operation.query.__struct_fields__:
        said["503"] = "Who has to be asked does not answer"
    said |= {str(status): words for status, words in operation.refuses}
    found: dict[str, Any] = {"200": {"description": "It", "content": {JSON: {"schema": _ref(operation.gives)}}}}
    if operation.method == "GET":
        found["200"]["headers"] = {"ETag": {"description": "Of what it says", "schema": {"type": "string"}}}
        found["304"] = {"description": "It says what If-None-Match names"}
    found["431"] = {"description": "Its head is longer than 64 KiB"}  # so the server says it, without a body
    return found | {status: {"description": words, **refused} for status, words in said.items()}


def _ref(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is list:
        return {"type": "array", "items": _ref(get_args(kind)[0])}
    return {"$ref": REF.format(name=kind.__name__)}
