"""Asks etcd: opens the store with the options of the command line, and turns its errors into one line for a person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from agent.cli.options import Options

if TYPE_CHECKING:
    from registry.store import Store

T = TypeVar("T")


def ask(options: Options, question: Callable[[Store], Awaitable[T]]) -> T:
    """The answer to a question, asked in a Trio of its own. Raises Failure."""
    import trio

    return trio.run(asked, options, question)


async def asked(options: Options, question: Callable[[Store], Awaitable[T]]) -> T:
    """The same from within Trio."""
    from registry.etcd import EtcdStore
    from registry.store import Refused, StoreError

    try:
        async with EtcdStore.open(_settings(options)) as store:
            return await question(store)
    except* Refused as group:
        raise _told(options, group, "etcd refused: {}; see --etcd-user and --etcd-cert") from None
    except* StoreError as group:
        raise _told(options, group, "etcd cannot be asked at {etcd}: {}; name it with --etcd or SHOAL_ETCD") from None
