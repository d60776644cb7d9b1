"""Asks etcd: opens the store with the options of the command line, and turns its errors into one line for a person."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent.cli.failure import Exit, Failure
from agent.cli.options import Options
from agent.cli.people.login import HELD, folder, load

if TYPE_CHECKING:
    from registry.etcd.store import EtcdSettings, EtcdStore
    from registry.etcd.users import Users
    from registry.store import Store

T = TypeVar("T")


def ask(options: Options, question: Callable[[Store], Awaitable[T]]) -> T:
    """The answer to a question, asked in a Trio of its own. Raises Failure."""
    import trio

    return trio.run(asked, options, question)


def ask_users(options: Options, question: Callable[[Users], Awaitable[T]]) -> T:
    """The same of who may ask for etcd's users and roles, and change them."""
    import trio

    from registry.etcd.users import Users

    async def put(store: Store) -> T:
        assert isinstance(store, Users)
        return await question(store)

    return trio.run(asked, options, put, Users)


async def asked(options: Options, question: Callable[[Store], Awaitable[T]], kind: type[EtcdStore] | None = None) -> T:
    """The same from within Trio; `kind`: of the store."""
    from registry.etcd.store import EtcdStore
    from registry.store import Refused, StoreError

    try:
        async with (kind or EtcdStore).open(settings_of(options)) as store:
            return await question(store)
    except Refused as error:
        raise Failure(f"etcd refused: {error}; see --etcd-user and --etcd-cert", Exit.UNREACHABLE) from None
    except StoreError as error:
        where = ", ".join(options.etcd)
        reason = f"etcd cannot be asked at {where}: {error}; name it with --etcd or SHOAL_ETCD"
        raise Failure(reason, Exit.UNREACHABLE) from None
    except BrokenPipeError:
        raise  # whoever reads our answer has seen enough
    except (OSError, ValueError) as error:
        raise Failure(f"etcd: {error}", Exit.USAGE) from None


def settings_of(options: Options) -> EtcdSettings:
    from registry.etcd.store import EtcdSettings

    certificate, key = shown(options)
    return EtcdSettings(
        endpoints=options.etcd,
        ca=options.ca,
        cert=certificate,
        key=key,
        user=options.user,
        password=_password(options),
        proxy=options.proxy,
        timeout_s=options.timeout_s,
    )


def shown(options: Options) -> tuple[str, str]:
    """The certificate and key that etcd is shown: those of the options, else, where etcd is asked by TLS and for no
    other user, those of the person who is logged in to the mesh. Raises Failure for a login that has ended."""
    if options.certificate or options.user or not all(url.startswith("https://") for url in options.etcd):
        return options.certificate, options.key
    login = load(options.mesh)
    if login is None:
        return "", ""
    if login.until <= time.time():
        raise Failure(
            f"the login of {login.person} has ended; `shoal logout` forgets it, and `shoal person add {login.person}` "
            "makes a token for another",
            Exit.UNREACHABLE,
        )
    held = str(folder(options.mesh) / HELD)
    return held, held


def _password(options: Options) -> str:
    """Raises Failure that does not repeat what was typed: it may be the password itself."""
    if not options.password_file:
        return options.password
    try:
        return Path(options.password_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Failure(f"the file that --etcd-password-file names: {error.strerror}", Exit.USAGE) from None
    except UnicodeDecodeError:
        raise Failure("the file that --etcd-password-file names: not UTF-8", Exit.USAGE) from None
