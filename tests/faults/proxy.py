"""A TCP proxy in front of the server, which cuts the connection where it is told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

MARK = b"BEGIN ISOLATION LEVEL READ COMMITTED"
"""How the message begins that writes; the proxy counts from there."""


@dataclass(slots=True)
class Cut:
    """Where to cut: so many bytes into the message that bears the mark, or into the answer to it (None: not there).

    With ``whole_message`` all of the message goes through, and not a byte of the answer comes back.
    """

    message_bytes: int | None = None
    answer_bytes: int | None = None
    whole_message: bool = False


class Proxy:
    """Listens on a port of 127.0.0.1, and passes on to a server on a unix socket or a port."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.cut: Cut | None = None
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """Stop listening, and wait until every connection has ended."""
        # A thread in accept() is not woken by close() alone.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self.threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = self._connect()
                seen = threading.Event()
                self._start(self._pass_on, client, server, seen, True)
                self._start(self._pass_on, server, client, seen, False)

    def _connect(self) -> socket.socket:
        host, port = self.target
        if not host.startswith("/"):
            return socket.create_connection(self.target)
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _pass_on(self, source: socket.socket, target: socket.socket, seen: threading.Event, to_server: bool) -> None:
        """Pass bytes on until an end closes or the cut comes; then close both ends, as a broken network would."""
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                cut = self.cut
                if cut and to_server and MARK in data:
                    seen.set()
                if cut and seen.is_set():
                    allowed = cut.message_bytes if to_server else 0 if cut.whole_message else cut.answer_bytes
                    if allowed is not None and passed + len(data) > allowed:
                        target.sendall(data[: allowed - passed])
                        self.cuts += 1
                        break
                    passed += len(data)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """Run a proxy for the block."""
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
