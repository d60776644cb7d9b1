"""Servers that say which place of theirs a request came to: the judges of what a path means."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from agent.process.listening import at
from registry.etcd.server import free_port
from tests.support.mesh import until

FETCHED: Final = Path(os.environ.get("SHOAL_PATH_JUDGES", "/nonexistent"))
"""Where `scripts/interop paths` has what it fetched."""
NOWHERE: Final = ""
"""No place: it was refused, or led elsewhere."""
PLACES: Final = ("admin", "public")


class Judge:
    """One that listens."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.loose = False
        """Whether it takes what no other does."""

    def place(self, request: bytes) -> tuple[str, str]:
        """Which place a request came to, and with which method; NOWHERE: none."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            told = b""
            while data := sock.recv(65536):
                told += data
        fields = dict(line.lower().partition(b": ")[::2] for line in told.partition(b"\r\n\r\n")[0].split(b"\r\n"))
        return fields.get(b"x-place", b"").decode(), fields.get(b"x-method", b"").decode().upper()


@contextmanager
def werkzeug(folder: Path) -> Iterator[Judge]:
    """Its own server, and its routing."""
    from werkzeug.exceptions import HTTPException
    from werkzeug.routing import Map, RequestRedirect, Rule
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    rules = Map([Rule(f"/{n}{rest}", endpoint=n) for n in PLACES for rest in ("", "/", "/<path:rest>")])

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        try:
            place = rules.bind_to_environ(environ).match()[0]
        except RequestRedirect:
            place = NOWHERE
        except HTTPException:
            place = "other"
        start("200 OK", [("X-Place", place), ("X-Method", environ["REQUEST_METHOD"]), ("Content-Length", "0")])
        return [b""]

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Judge(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def nginx(folder: Path) -> Iterator[Judge]:
    """Debian's."""
    port = free_port()
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    said = 'add_header X-Place "{}"; add_header X-Method $request_method; return 204;'
    places = "".join(
        f"location = /{name} {{ {said.format(name)} }} location ^~ /{name}/ {{ {said.format(name)} }}"
        for name in PLACES
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port}; {places} location / {{ {said.format('other')} }} }} }}\n"
    )
    with _running(
        [str(program("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")]
    ):
        until("nginx", lambda: at(port))
        yield Judge(port)


@contextmanager
def fetched(command: Sequence[str]) -> Iterator[Judge]:
    """A program that says where it listens."""
    with _running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield Judge(int(process.stdout.readline()))
        process.stdout.close()


def program(name: str) -> str | None:
    """Where one is, also where Debian has what is root's."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def _running(command: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def go(kind: str) -> Callable[[Path], Any]:
    """net/http: its mux, or a handler of one's `own`."""
    return lambda folder: fetched([str(FETCHED / "judge"), kind])


def jetty(kind: str) -> Callable[[Path], Any]:
    """As strict as it is, or `unsafe`."""
    return lambda folder: fetched(["java", "-cp", f"{FETCHED}/jars/*", str(FETCHED / "Judge.java"), kind])
