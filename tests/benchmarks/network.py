"""A network between client and server: each way takes half a millisecond, and turns are counted."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time

from tests.faults.proxy import Proxy

ONE_WAY = 0.0005
"""Seconds."""


class SlowProxy(Proxy):
    """Passes everything on, each piece so much later; ``turns`` counts how often the client spoke after an answer."""

    def __init__(self, host: str, port: int) -> None:
        self.turns = 0
        self._answered = True
        super().__init__(host, port)

    def _pass_on(self, source: socket.socket, target: socket.socket, seen: threading.Event, to_server: bool) -> None:
        """Read without waiting for what is under way, so that two pieces at once are late only once."""
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) if target.family != socket.AF_UNIX else None
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._start(self._deliver, under_way, target, to_server)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                under_way.put((time.perf_counter() + ONE_WAY, data))
                if to_server and self._answered:
                    self._answered = False
                    self.turns += 1
        under_way.put((0, b""))

    def _deliver(
        self, under_way: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket, to_server: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := (piece := under_way.get())[1]:
                time.sleep(max(0, piece[0] - time.perf_counter()))
                if not to_server:
                    self._answered = True
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        # The thread that reads from it closes nothing, so that no number is given to a new socket too early.
        target.close()
