"""Asks etcd: opens the store with the options of the command line, and turns its errors into one line for a person."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from agent.cli.failure import Exit, Failure
from agent.cli.options import Options

if TYPE_CHECKING:
    from registry.etcd import EtcdSettings
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
    except Refused as error:
        raise Failure(f"etcd refused: {error}; see --etcd-user and --etcd-cert", Exit.UNREACHABLE) from None
    except StoreError as error:
        where = ", ".join(options.etcd)
        reason = f"etcd cannot be asked at {where}: {error}; name it with --etcd or SHOAL_ETCD"
        raise Failure(reason, Exit.UNREACHABLE) from None
    except (OSError, ValueError) as error:
        raise Failure(f"etcd: {error}", Exit.USAGE) from None


def _settings(options: Options) -> EtcdSettings:
    from registry.etcd import EtcdSettings

    return EtcdSettings(
        endpoints=options.etcd,
        ca=options.ca,
        cert=options.certificate,
        key=options.key,
        user=options.user,
        password=options.password,
        timeout_s=options.timeout_s,
    )
