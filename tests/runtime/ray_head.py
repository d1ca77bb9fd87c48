"""A head of Ray with ports and a folder of its own, for tests."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path


class RayHead:
    """A cluster of one machine; `start` and `kill` may be called in turn.

    Args:
        folder: for its files; its path has to be short, as sockets lie in it.
        cpus: as Ray is to believe.

    Attributes:
        address: HOST:PORT.
        environment: for programs that are to be let in.
    """

    def __init__(self, folder, cpus):
        self._folder = Path(folder)
        with ExitStack() as held:
            sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            self._port, client, agent = (one.getsockname()[1] for one in sockets)
        self.address = f"127.0.0.1:{self._port}"
        program = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
        options = {
            "port": self._port,
            "ray-client-server-port": client,
            "dashboard-agent-listen-port": agent,
            "num-cpus": cpus,
            "object-store-memory": 100_000_000,
            "include-dashboard": "false",
            "temp-dir": self._folder,
        }
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # it listens on all interfaces
        nowhere = "http://127.0.0.1:9"
        silence = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": nowhere, "http_proxy": nowhere}
        self.environment = {**os.environ, **token, **silence}
        self._command = [*program, *(f"--{name}={value}" for name, value in options.items())]

    def start(self):
        log = self._folder / "head.log"
        with log.open("w") as file:
            subprocess.Popen(self._command, stdout=file, stderr=file, env=self.environment)
        until = time.monotonic() + 300
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def kill(self):
        """End all of its processes at once, as a machine ends that loses its power."""
        for _ in range(3):
            for process in self._processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)

    def _processes(self):
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self._folder).encode() in (folder / "cmdline").read_bytes():
                    yield int(folder.name)
