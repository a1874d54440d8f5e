"""A TCP proxy on loopback that can cut connections at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Decide = Callable[[bytes], str]
"""Looks at what a client sends; says "pass", "cut" (before the server gets it) or "mute" (the
server gets it, and the client is cut off from the reply)."""


class Proxy:
    """Forwards each connection to a port, as `decide` says."""

    def __init__(self, port: int, decide: Decide) -> None:
        self._target = port
        self._decide = decide
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Shut down first: closing alone does not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for work in (self._forward, self._backward):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                what = self._decide(data)
                if what == "mute":
                    # No reply may get through, so the client's side ends first.
                    client.shutdown(socket.SHUT_RDWR)
                if what != "cut":
                    server.sendall(data)
                if what != "pass":
                    break
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _backward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        server.close()


@contextlib.contextmanager
def proxy(port: int, decide: Decide) -> Iterator[int]:
    """A proxy for the length of a test; gives its port."""
    running = Proxy(port, decide)
    try:
        yield running.port
    finally:
        running.close()
