"""An HTTP proxy that notes who asks it for what, and carries CONNECT out."""

from __future__ import annotations

import os
import socket
import threading


class Tunnel:
    """Listens on loopback for the length of a block."""

    def __enter__(self) -> Tunnel:
        self.heard: list[str] = []
        """The first line of every connection."""
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._sock.getsockname()[1]}"
        self.url = f"http://{self.address}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        for sock in self._open:
            _end(sock)
        for thread in self._threads:
            thread.join(10)
        for sock in (self._sock, *self._open):
            sock.close()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._sock.accept()
            except OSError:
                return
            self._open.append(caller)
            line = caller.recv(65536).partition(b"\r\n")[0].decode("latin-1")
            self.heard.append(line)
            words = line.split()
            if len(words) < 2 or words[0] != "CONNECT":
                _end(caller)
                continue
            host, _, port = words[1].rpartition(":")
            target = socket.create_connection((host, int(port)))
            self._open.append(target)
            caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for ends in ((caller, target), (target, caller)):
                self._threads.append(threading.Thread(target=_carry, args=ends))
                self._threads[-1].start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    _end(sink)


def _end(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def environment_of(tunnel: Tunnel) -> dict[str, str]:
    """An environment in which every name that programs look for names the tunnel."""
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ws_proxy", "wss_proxy", "ftp_proxy")
    named = {spelling: tunnel.url for name in names for spelling in (name, name.upper())}
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return kept | named | {
        "GRPC_ADDRESS_HTTP_PROXY": tunnel.address,
        "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "0.0.0.0/0,::/0",
    }  # fmt: skip
