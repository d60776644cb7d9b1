"""The options that every command shares: where etcd is, where the agent is, which mesh, and how to print."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path

import msgspec

from agent.cli.agent_client import Admin, check_place, find_socket
from agent.cli.failure import Exit, Failure
from agent.cli.people.login import load
from agent.cli.printing import Output, Printer

DEFAULT_ETCD = "http://127.0.0.1:2379"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What stood before or after the command's name, or in the environment."""

    etcd: tuple[str, ...] = (DEFAULT_ETCD,)
    """Client URLs of etcd, tried in turn."""
    mesh: str = "default"
    place: str = ""
    """Of the agent: a socket's path or an admin port's URL; empty: the socket that `find_socket` finds."""
    output: Output = "table"
    user: str = ""
    password: str = ""
    password_file: str = ""
    """Holds the password and nothing else; comes before `password`."""
    proxy: str = ""
    ca: str = ""
    """Path of the CA certificates (PEM) that etcd's own must be signed by; empty: the system's."""
    certificate: str = ""
    key: str = ""
    timeout_s: float = 5.0
    """For each question to etcd."""

    @property
    def printer(self) -> Printer:
        return Printer(self.output)

    @property
    def admin(self) -> Admin:
        return Admin(check_place(self.place) if self.place else find_socket(), self.mesh)

    @property
    def expects_agent(self) -> bool:
        """Whether an agent is to be on this host: somebody names one, or one has left its socket here."""
        return bool(self.place) or Path(find_socket()).is_socket()


def given(
    *,
    etcd: str,
    mesh: str,
    admin: str,
    output: Output,
    user: str,
    password_file: str,
    ca: str,
    certificate: str,
    key: str,
    proxy: str,
    timeout_s: float,
) -> Options:
    """Options as they stood on the command line or in the environment. Raises Failure."""
    return Options(
        etcd=endpoints(etcd),
        mesh=mesh,
        place=admin,
        output=output,
        user=user,
        password=os.environ.get("SHOAL_ETCD_PASSWORD", ""),
        password_file=password_file,
        proxy=proxy,
        ca=ca,
        certificate=certificate,
        key=key,
        timeout_s=timeout_s,
    )


def endpoints(text: str) -> tuple[str, ...]:
    """The URLs in `--etcd`: separated by commas; a bare host:port means http. Raises Failure."""
    urls = tuple(part if "://" in part else f"http://{part}" for part in text.replace(",", " ").split())
    if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
        raise Failure(f"--etcd {text!r} holds no URLs such as http://127.0.0.1:2379,https://10.0.0.7:2379", Exit.USAGE)
    return urls


def who(mesh: str) -> str:
    """Whose command it is, for people: the person who is logged in to the mesh, else the user of this machine; empty
    where nobody knows."""
    login = load(mesh)
    if login is not None and login.until > time.time():
        return login.person
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
