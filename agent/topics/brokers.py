"""Which broker keeps a topic."""

from __future__ import annotations

from agent.topics.broker import Broker, Credentials, Judge
from policies.kinds.shed.topic import Place


def broker_of(place: Place, credentials: Credentials, judge: Judge | None = None) -> Broker:
    """Whose protocol it is. Without a `judge` any address may be called."""
    if place.pulsar:
        from agent.topics.pulsar import Pulsar  # and trio-websocket, which most agents never need

        return Pulsar(place, credentials, judge)
    from agent.topics.redis import Redis

    return Redis(place, credentials, judge)
