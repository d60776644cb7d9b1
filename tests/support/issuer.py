"""An issuer of tokens: real HTTP, with TLS where a test wants it, in a thread of the test, that turns and lies as the
test chooses."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
import threading
import time
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from joserfc import jwk, jws

Said: TypeAlias = tuple[int, dict[str, str], bytes]
WELL_KNOWN = "/.well-known/openid-configuration"


class Issuer:
    """Publishes `keys` at /jwks, and at its well-known place where that is. `behave`: what it does instead; None: as
    usual."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0, host: str = "localhost") -> None:
        self.keys: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Path and fields of what was asked for."""
        self.headers: dict[str, str] = {}
        self.codes: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}
        """That were given and not used yet: what was asked for, and the claims of who has agreed."""
        self.secret = ""
        """Of the one client that there is."""
        self.behave: Callable[[str], Said | None] = lambda path: None
        self.drips: threading.Event | None = None
        """Until it is set a body comes a byte at a time."""
        self.running = True
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_POST(self) -> None:
                self.posted = self.rfile.read(int(self.headers.get("content-length", "0")))
                self.do_GET()

            def do_GET(self) -> None:
                fields = {name.lower(): value for name, value in self.headers.items()}
                if hasattr(self, "posted"):
                    fields["posted"] = self.posted.decode()
                issuer.asked.append((self.path, fields))
                status, headers, body = issuer.behave(self.path) or issuer.usual(self.path, fields)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    while issuer.drips is not None and not issuer.drips.wait(0.05) and body:
                        self.wfile.write(body[:1])
                        body = body[1:]
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self.name = f"{'http' if context is None else 'https'}://{host}:{self.port}"
        """`iss` of its tokens."""
        self.jwks_url = f"{self.name}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def usual(self, path: str, fields: dict[str, str]) -> Said:
        """As RFC 7517 and OpenID Connect Discovery have it."""
        if path == WELL_KNOWN:
            more = {"authorization_endpoint": f"{self.name}/authorize", "token_endpoint": f"{self.name}/token"}
            return 200, self.headers, json.dumps({"issuer": self.name, "jwks_uri": self.jwks_url, **more}).encode()
        if path == "/token":
            return self._exchange(dict(parse_qsl(fields.get("posted", ""))), fields.get("authorization", ""))
        if path != "/jwks":
            return 404, {}, b"no such thing"
        body = json.dumps({"keys": [key.as_dict(private=False) for key in self.keys.values()]}).encode()
        etag = f'"{hashlib.sha256(body).hexdigest()[:12]}"'
        if fields.get("if-none-match") == etag:
            return 304, {"etag": etag, **self.headers}, b""
        return 200, {"etag": etag, "content-type": "application/json", **self.headers}, body

    def agree(self, url: str, **claims: Any) -> str:
        """As somebody who logs in at a URL of ours: the code that a browser is sent back with."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert url.startswith(f"{self.name}/authorize?") and asked["response_type"] == "code", url
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked, {"aud": asked["client_id"], "nonce": asked["nonce"], **claims}
        return code

    def _exchange(self, form: dict[str, str], authorization: str) -> Said:
        """RFC 6749 section 4.1.3, and RFC 7636: a code counts once, with its verifier, for its client and its place."""
        asked, claims = self.codes.pop(form.get("code", ""), ({}, {}))
        told = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        client, _, secret = told.partition(":") if told else (form.get("client_id", ""), "", "")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        sound = (
            form.get("grant_type") == "authorization_code"
            and form.get("redirect_uri") == asked.get("redirect_uri")
            and challenge.rstrip(b"=").decode() == asked.get("code_challenge")
            and (unquote(client), unquote(secret)) == (asked.get("client_id"), self.secret)
        )
        if not sound:
            return 400, {}, b'{"error": "invalid_grant"}'
        return (
            200,
            {},
            json.dumps({"id_token": self.token(**claims), "access_token": "x", "token_type": "Bearer"}).encode(),
        )

    def turn(self, kid: str, *, withdraw: bool = False) -> None:
        """Sign with a new key from now on; the others stay published, or are withdrawn."""
        key = jwk.ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})
        self.keys = {kid: key} if withdraw else {**self.keys, kid: key}

    def token(self, sub: str = "ann", kid: str = "", key: Any = None, **claims: Any) -> str:
        """Signed with its latest key, or another one of its own, or one that a test has kept."""
        kid = kid or next(reversed(self.keys))
        now = time.time()
        said = {"iss": self.name, "aud": "lamps", "sub": sub, "iat": now - 1, "exp": now + 3600, **claims}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signed = key or self.keys[kid]
            return jws.serialize_compact({"alg": "ES256", "kid": kid}, json.dumps(said).encode(), signed)

    def provider(self, **more: Any) -> dict[str, Any]:
        """As documents name it."""
        where = {} if "discover" in more or "jwks_url" in more else {"jwks_url": self.jwks_url}
        return {"issuer": self.name, "audiences": ["lamps"], "algorithms": ["ES256"], **where, **more}

    def close(self) -> None:
        """Away; its port refuses from then on."""
        self.running = False
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
