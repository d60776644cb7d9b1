"""Advice as Kubernetes reads external metrics: `external.metrics.k8s.io/v1beta1`, discovery and values.

    GET /apis/external.metrics.k8s.io/v1beta1/namespaces/shop/shoal_scale_replicas?labelSelector=service=auth

A HorizontalPodAutoscaler that wants an average of 1 of it has as many replicas as are advised. The namespace makes no
difference: services of a mesh are in none. What stands in etcd is told, by any agent.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from agent.control.admin.door import Answer, Door
from agent.control.host.rights import Right
from policies.language.names import parse_service
from registry.keys import Keys, Room
from registry.records import Advised, Malformed, decode
from registry.store import Store, StoreError, prefix_end

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = f"{GROUP}/v1beta1"
METRIC: Final = "shoal_scale_replicas"
_SELECTOR: Final = re.compile(r"service\s*==?\s*([^,\s]+)\Z")
_KNOWN: Final = {"groupVersion": VERSION, "version": "v1beta1"}
_OF_GROUP: Final = {"name": GROUP, "versions": [_KNOWN], "preferredVersion": _KNOWN}
_REASONS: Final = {400: "BadRequest", 404: "NotFound", 503: "ServiceUnavailable"}


class ExternalMetrics:
    """The handlers."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    def doors(self) -> list[Door]:
        """For whoever may look."""
        return [
            Door("GET", "/apis", self._groups, Right.LOOK),
            Door("GET", f"/apis/{GROUP}", self._group, Right.LOOK),
            Door("GET", f"/apis/{VERSION}", self._resources, Right.LOOK),
            Door("GET", f"/apis/{VERSION}/namespaces/{{namespace}}/{{metric}}", self._values, Right.LOOK),
        ]

    async def _groups(self, _: Request) -> Response:
        return Answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": [_OF_GROUP]})

    async def _group(self, _: Request) -> Response:
        return Answer({"kind": "APIGroup", "apiVersion": "v1", **_OF_GROUP})

    async def _resources(self, _: Request) -> Response:
        known = {"name": METRIC, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList"}
        resources = [{**known, "verbs": ["get"]}]
        return Answer({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": resources})

    async def _values(self, request: Request) -> Response:
        metric, selector = request.path_params["metric"], request.query_params.get("labelSelector", "")
        if metric != METRIC:
            return _status(404, f"there is no metric {metric[:100]} here, but {METRIC}")
        try:
            services = await self._chosen(selector.strip())
        except ValueError as error:
            return _status(400, str(error))
        except StoreError as error:
            return _status(503, f"no advice can be had: {error}")
        items = [_item(service, told) for service, told in sorted(services.items())]
        return Answer({"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}, "items": items})

    async def _chosen(self, selector: str) -> dict[str, Advised]:
        """Raises ValueError for a selector that is none, and StoreError."""
        room = self._keys.room(Room.SCALE)
        start, end = room, prefix_end(room)
        if selector:
            found = _SELECTOR.match(selector)
            if found is None:
                raise ValueError(f"labelSelector {selector[:100]!r}: there is one label; write service=pets.production")
            start = self._keys.advice(parse_service(found[1]))
            end = start + "\0"
        advised = {}
        for item in (await self._store.range(start, end)).items:
            try:
                advised[item.key.removeprefix(room)] = decode(Advised, item.value)
            except Malformed:
                continue  # none of ours
        return advised


def _item(service: str, told: Advised) -> dict[str, Any]:
    """`timestamp` has no fractions of a second: metav1.Time would take none."""
    try:
        at = datetime.fromisoformat(told.at).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        at = "1970-01-01T00:00:00Z"
    return {
        "metricName": METRIC,
        "metricLabels": {"service": service},
        "timestamp": at,
        "value": str(told.replicas),
    }


def _status(code: int, message: str) -> Response:
    """As Kubernetes tells what is wrong."""
    told = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return Answer({**told, "message": message, "reason": _REASONS[code], "code": code}, code)
