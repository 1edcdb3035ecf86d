"""A connection pool in transaction mode: its clients keep their connections while the database behind them changes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROTOCOL = 196608


class SwitchingPool:
    """Listens in *folder* and leads to ``database``; after ``left`` more transactions of clients (None: never) to ``other``."""

    def __init__(self, folder: Path, server: dict[str, Any], database: str) -> None:
        self.folder, self.port = folder, 6432
        self.database, self.other, self.left = database, database, None
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f".s.PGSQL.{self.port}"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    database: str
    other: str
    left: int | None

    def close(self) -> None:
        """Take no more clients."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _open(self, user: str, database: str) -> tuple[socket.socket, bytes]:
        host, port = str(self._server["host"]), int(self._server["port"])
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
        else:
            server = socket.create_connection((host, port))
        with contextlib.ExitStack() as opened:
            opened.enter_context(server)
            greeting = self._greet(server, user, database)
            opened.pop_all()
        return server, greeting

    def _greet(self, server: socket.socket, user: str, database: str) -> bytes:
        body = f"user\0{user}\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
        server.sendall(struct.pack("!ii", len(body) + 8, _PROTOCOL) + body)
        greeting = b""
        for kind, message in _messages(server):
            greeting += message
            if kind in b"ZE":
                break
        return greeting

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as opened:
            opened.enter_context(client)
            (size,) = struct.unpack("!i", _read(client, 4))
            words = _read(client, size - 4)[4:].split(b"\0")
            user = words[words.index(b"user") + 1].decode()
            database = self.database
            server, greeting = self._open(user, database)
            opened.enter_context(server)
            client.sendall(greeting)
            waiting, idle = 0, True
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    kind, message = next(_messages(server))
                    if kind == b"Z":
                        waiting -= 1
                        idle = message[-1:] == b"I"
                        self._count(ended=idle)
                    client.sendall(message)
                    continue
                kind, message = next(_messages(client))
                if kind == b"X":
                    server.close()
                    return
                if idle and not waiting and database != self.database:
                    server.close()
                    database = self.database
                    server, _ = self._open(user, database)
                    opened.enter_context(server)
                waiting += kind in b"QSF"
                server.sendall(message)

    def _count(self, *, ended: bool) -> None:
        if ended and self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.database, self.left = self.other, None


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _messages(source: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    while True:
        head = _read(source, 5)
        yield head[:1], head + _read(source, struct.unpack("!i", head[1:])[0] - 4)
