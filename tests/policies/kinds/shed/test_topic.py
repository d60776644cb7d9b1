"""Where a topic is: URLs that name one, and those that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kinds.shed.topic import Place, parse_topic

SECURE = "wss://pulsar.corp/ws/v2/producer/persistent/public/default/orders"
PULSAR = "ws://pulsar.corp:8080/ws/v2/producer/persistent/public/default/orders"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://r/?stream=s", ("r", 6379, "s", False, False, 0)),
        ("redis://r:1/7?stream=s", ("r", 1, "s", False, False, 7)),
        ("rediss://[::1]:6380/0?stream=a:b", ("::1", 6380, "a:b", False, True, 0)),
        ("redis://r/0?stream=shed.{service}", ("r", 6379, "shed.pets.production", False, False, 0)),
        (PULSAR, ("pulsar.corp", 8080, "public/default/orders", True, False, 0)),
        (SECURE, ("pulsar.corp", 8443, "public/default/orders", True, True, 0)),
        (PULSAR + "-{service}", ("pulsar.corp", 8080, "public/default/orders-pets.production", True, False, 0)),
    ],
)
def test_places(url: str, place: tuple[str, int, str, bool, bool, int]) -> None:
    found = parse_topic(url, "pets.production")
    assert (found.host, found.port, found.name, found.pulsar, found.tls, found.database) == place
    assert "{service}" not in found.url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is no topic"),
        ("orders", "is no topic"),
        ("kafka://k:9092/orders", "is no topic"),
        ("http://pulsar.corp:8080/ws/v2/producer/persistent/a/b/c", "is no topic"),
        ("redis://", "is no topic"),
        ("redis://r:99999/0?stream=s", "has no port that is one"),
        ("redis://r:x/0?stream=s", "has no port that is one"),
        ("redis://r/0", "names no stream"),
        ("redis://r/0?stream=", "names no stream"),
        ("redis://r/0?stream=a%20b", "names no stream"),
        ("redis://r/0?stream=s&db=1", "names no stream"),
        ("redis://r/orders?stream=s", "the path is the number of a database"),
        ("redis://:secret@r/0?stream=s", "no password stands in a URL"),
        ("redis://r/0?stream=s#x", "is no topic"),
        ("redis://r /0?stream=s", "is no URL"),
        ("redis://r/0?stream=s\r\nPING", "is no URL"),
        ("redis://r/0?stream=" + "s" * 2000, "is no URL"),
        ("redis://[::1/0?stream=s", "is no topic"),
        (PULSAR + "?token=abc", "a token does not stand in a URL"),
        (PULSAR + "/more", "is no producer's"),
        (PULSAR.replace("producer", "consumer"), "is no producer's"),
        (PULSAR.replace("persistent", "non-persistent"), "is no producer's"),
        (PULSAR.replace("/orders", "/../x"), "is no producer's"),
        ("ws://pulsar.corp:8080/", "is no producer's"),
    ],
)
def test_what_is_none(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_topic(url, "pets.production")


@given(st.text(max_size=80), st.sampled_from(["", "redis://", "redis://r/0?stream=", "ws://h:1/ws/v2/producer/"]))
def test_anything(text: str, begin: str) -> None:
    """A place, or words; and never a place whose name could be another command or path."""
    try:
        place = parse_topic(begin + text, "pets.production")
    except ValueError as error:
        assert str(error)
    else:
        assert isinstance(place, Place) and place.name.isascii() and place.name.isprintable() and " " not in place.name
        assert 0 < place.port < 65536
