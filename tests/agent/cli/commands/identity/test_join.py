"""`shoal join`, against an issuer that only answers: over TLS, with a certificate of the mesh's root."""

from __future__ import annotations

import os
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives import serialization

from agent.cli.identity.domain import now_s, take
from agent.cli.identity.joining import SNI
from agent.control.identity.files import Files
from agent.identity.bundles import bundle_document
from agent.identity.certificates import (
    INTERMEDIATE_S,
    ROOT_S,
    SVID_S,
    Issuer,
    make_intermediate,
    make_root,
    make_svid,
    read_request,
    to_pem,
)
from agent.identity.spiffe import agent_id
from agent.identity.tokens import Joined, Joining, Token, digest_of, read_token, write_token
from agent.proxy.engine import credentials
from tests.support.identity import key, terms
from tests.support.operating import Mesh
from tests.support.proxy import refusing_port

Answer = Callable[[Joining], tuple[int, bytes]]


class Desk(HTTPServer):
    """One issuer's inbound listener."""

    def __init__(self, chain: Path, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self.context = context
        self.answer = answer
        self.heard: list[Joining] = []

    def get_request(self) -> Any:
        sock, address = super().get_request()
        return self.context.wrap_socket(sock, server_side=True), address


class _Handler(BaseHTTPRequestHandler):
    server: Desk

    def do_POST(self) -> None:
        assert (self.path, self.headers["host"]) == ("/join", "agent.shoal")
        asked = msgspec.msgpack.decode(self.rfile.read(int(self.headers["content-length"])), type=Joining)
        self.server.heard.append(asked)
        status, body = self.server.answer(asked)
        if not status:
            return
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Room:
    """What an issuer and a new host are made of."""

    def __init__(self, mesh: Mesh, root: Issuer, token: Token) -> None:
        self.mesh = mesh
        self.token = token
        self.domain = token.trust_domain
        self.root = root
        self.bundle = ""
        self.state = mesh.folder / "state"
        self.config = mesh.folder / "agent.toml"
        self.config.write_text(f'mesh = "{mesh.name}"\nhost = "web-3"\nstate_dir = "{self.state}"\n')

    def issuer(self, root: Issuer | None = None) -> Issuer:
        made = terms(now_s(), INTERMEDIATE_S)
        above = make_intermediate(root or self.root, key("desk").public_key(), self.domain, "web-1", made)
        return Issuer(above, key("desk"))

    def signs(self, asked: Joining, host: str = "web-3", whose: str = "") -> tuple[int, bytes]:
        """A certificate for whoever has the token."""
        if asked.token != self.token.secret:
            return 403, b"no such token"
        public = key(whose).public_key() if whose else read_request(asked.csr.encode())
        issuer = self.issuer()
        leaf = make_svid(issuer, public, agent_id(self.domain, host), host, terms(now_s(), SVID_S))
        chain = to_pem([leaf, issuer.certificate]).decode()
        return 200, msgspec.msgpack.encode(Joined(chain, self.bundle))

    @contextmanager
    def desk(self, answer: Answer, host: str = "web-1", root: Issuer | None = None) -> Iterator[Desk]:
        """An issuer's listener; `host`: whose agent it proves to be, `root`: by which root."""
        issuer = self.issuer(root)
        mine = key("desk agent")
        leaf = make_svid(issuer, mine.public_key(), agent_id(self.domain, host), host, terms(now_s(), SVID_S))
        pem = mine.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.mesh.folder / f"desk-{host}.pem"
        path.write_bytes(pem + to_pem([leaf, issuer.certificate]))
        desk = Desk(path, answer)
        thread = threading.Thread(target=desk.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield desk
        finally:
            desk.shutdown()
            thread.join()
            desk.server_close()

    def at(self, *ports: int) -> str:
        """The token, with issuers at other ports."""
        places = [self.token.issuers[0].__class__("web-1", "127.0.0.1", port) for port in ports]
        return write_token(msgspec.structs.replace(self.token, issuers=places))

    async def join(self, text: str, *words: str, code: int = 0) -> Any:
        return await self.mesh.shoal("join", text, "--config", str(self.config), "-t", "0", *words, code=code)

    def files(self) -> Files:
        return Files(self.state / "identity", self.mesh.name)


@pytest.fixture
async def room(mesh: Mesh) -> Room:
    """A mesh with a CA, and a token for web-3."""
    await mesh.init("web-1")
    token = read_token((await mesh.json("host", "add", "web-3"))["token"])
    bundle = (await take(mesh.store, mesh.name)).required()
    own = serialization.load_pem_private_key(mesh.key.read_bytes(), None)
    found = Room(mesh, Issuer(bundle.roots[0], own), token)  # type: ignore[arg-type]
    found.bundle = bundle_document(bundle).decode()
    return found


async def test_a_host_joins_with_a_key_of_its_own(room: Room) -> None:
    """Made here, for its owner alone, where its agent looks; an issuer hears the secret and a request, and no more."""
    with room.desk(room.signs) as desk:
        done = await room.join(room.at(desk.server_port))
    assert f"web-3 belongs to {room.domain}" in done.stdout
    (kept,) = room.files().read()
    assert kept.name == "agent"
    assert stat.S_IMODE(os.stat(kept.path).st_mode) == 0o600
    assert kept.chain[0].public_key() == kept.key.public_key()
    assert [item[0] for item in room.files().load()] == [room.mesh.keys.identity("bundle")]
    (heard,) = desk.heard
    assert digest_of(heard.token) in (await take(room.mesh.store, room.mesh.name)).joins
    assert read_request(heard.csr.encode()) == kept.key.public_key()
    assert SNI == credentials.JOIN


@pytest.mark.parametrize("who", ["another host's agent", "another root of the same name", "no TLS", "nobody"])
async def test_nothing_is_told_to_who_is_not_the_issuer(room: Room, who: str) -> None:
    """Another agent of the mesh could redeem the token itself, and a root of the same name is anybody's."""
    root = None
    if who == "another root of the same name":
        fake = key("fake root")
        root = Issuer(make_root(fake, room.domain, terms(now_s(), ROOT_S)), fake)
    host = "web-9" if who == "another host's agent" else "web-1"
    if who == "nobody":
        done = await room.join(room.at(refusing_port()), code=3)
        assert "is not reached" in done.stderr
    elif who == "no TLS":
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, _rude, listener)
            done = await room.join(room.at(port), code=3)
            nursery.cancel_scope.cancel()
        assert "speaks no TLS" in done.stderr
    else:
        with room.desk(room.signs, host, root) as desk:
            done = await room.join(room.at(desk.server_port), code=3)
        assert "is not believed, and was told nothing" in done.stderr
        assert desk.heard == []
    assert room.files().read() == []


async def _rude(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_the_next_issuer_is_asked(room: Room) -> None:
    """One that is away, and one that cannot issue now, cost a word."""
    with room.desk(lambda _: (503, b"etcd is away")) as busy, room.desk(room.signs) as desk:
        done = await room.join(room.at(refusing_port(), busy.server_port, desk.server_port))
    assert "is not reached" in done.stderr
    assert "answers 503: etcd is away" in done.stderr
    assert len(room.files().read()) == 1


async def test_what_is_refused_is_told_and_not_asked_again(room: Room) -> None:
    """Redeemed before by somebody else, say; and no key stays that nobody signed."""
    with room.desk(lambda _: (403, b"this token was redeemed already")) as desk:
        done = await room.join(room.at(desk.server_port, desk.server_port), code=1)
    assert "this token was redeemed already" in done.stderr
    assert "`shoal host add web-3`" in done.stderr
    assert len(desk.heard) == 1
    assert room.files().read() == []


async def test_an_answer_that_is_lost_is_told(room: Room) -> None:
    """The token may be redeemed: nobody is asked again, and the key stays, for a certificate that may have been put."""
    with room.desk(lambda _: (0, b"")) as desk:
        done = await room.join(room.at(desk.server_port, desk.server_port), code=1)
    assert "its answer did not come" in done.stderr
    assert len(desk.heard) == 1
    (kept,) = room.files().read()
    assert kept.chain == ()


@pytest.mark.parametrize("wrong", ["host", "key", "bundle", "garbage"])
async def test_what_an_issuer_answers_is_looked_at(room: Room, wrong: str) -> None:
    """For our name, our key, and by the token's root; else nothing is kept."""
    if wrong == "bundle":
        room.bundle = '{"keys": []}'
    answers: dict[str, Answer] = {
        "host": lambda asked: room.signs(asked, host="web-4"),
        "key": lambda asked: room.signs(asked, whose="theirs"),
        "bundle": room.signs,
        "garbage": lambda _: (200, b"\xc1"),
    }
    with room.desk(answers[wrong]) as desk:
        done = await room.join(room.at(desk.server_port), code=1)
    told = {
        "host": "where spiffe",
        "key": "another key",
        "bundle": "without the root",
        "garbage": "makes no sense",
    }
    assert told[wrong] in done.stderr
    assert room.files().read() == []
    assert room.files().load() == []


async def test_a_token_that_cannot_be_good_is_refused_before_anybody_is_asked(room: Room) -> None:
    """Cut, late, of another host or mesh; and a state directory that an agent uses."""
    text = room.at(refusing_port())
    assert "is not whole" in (await room.join(text[:-3], code=2)).stderr
    late = write_token(msgspec.structs.replace(room.token, until=int(now_s()) - 1))
    assert "has ended at" in (await room.join(late, code=1)).stderr
    other = write_token(msgspec.structs.replace(room.token, host="web-4"))
    assert "lets web-4 in, and this host's agent is called web-3" in (await room.join(other, code=2)).stderr
    other = write_token(msgspec.structs.replace(room.token, mesh="other"))
    assert "is of the mesh 'other'" in (await room.join(other, code=2)).stderr
    (room.mesh.folder / "open").mkdir(mode=0o777)
    os.chmod(room.mesh.folder / "open", 0o777)
    assert "agent's user" in (await room.join(text, "--state-dir", str(room.mesh.folder / "open"), code=2)).stderr
