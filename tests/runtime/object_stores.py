"""An S3 server for tests, and a line to it that can be cut."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    "NO_PROXY": "127.0.0.1",
}
_BLOCK_BYTES = 4096


@contextmanager
def s3_server() -> Iterator[int]:
    """Run a server of S3 in this process, and yield its port."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


class Line:
    """A port that passes all on to another, and can be cut: in the middle of what is said, and for a while.

    Attributes:
        port: where it listens.
        cuts: of how many connections were cut in the middle.
        hangs_on: the part of a request that holds these bytes is not passed on, until this is None again.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        self.hangs_on: bytes | None = None
        self._open: set[socket.socket] = set()
        # Of each of the next connections, after how many bytes it is cut.
        self._limits: list[int] = []

    def cut_next(self, limits: list[int]) -> None:
        """Cut each of the next connections, after so many bytes in either direction; and those there are now."""
        self._limits = list(limits)
        self._hang_up()

    def go_down(self) -> None:
        """Cut all connections, and refuse new ones."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()

    def come_up(self) -> None:
        """Listen again."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open |= {near, far}
                left = [self._limits.pop(0) if self._limits else -1]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other, left, one is near), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, left: list[int], is_request: bool) -> None:
        with suppress(OSError):
            while data := one.recv(_BLOCK_BYTES):
                while is_request and self.hangs_on and self.hangs_on in data:
                    time.sleep(0.02)
                if 0 <= left[0] < len(data):
                    other.sendall(data[: left[0]])
                    self.cuts += 1
                    break
                left[0] -= len(data) if left[0] >= 0 else 0
                other.sendall(data)
        _close(one)
        _close(other)

    def _hang_up(self) -> None:
        while self._open:
            _close(self._open.pop())


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
