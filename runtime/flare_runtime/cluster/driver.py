"""The driver: a process of its own that is connected to Ray, whose library ends it where the cluster is lost."""

import logging
import multiprocessing
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock, Thread

from flare_runtime.cases.case import Case
from flare_runtime.cluster.address import LOCAL
from flare_runtime.cluster.messages import CasesGiven, DriverMessage
from flare_runtime.cluster.orders import FleetOrder
from flare_runtime.errors import FlareError, LostDeviceError
from flare_runtime.files.naming import visible
from flare_runtime.program.telemetry import silence_command
from flare_runtime.program.terminal import drop_output
from flare_runtime.run.record import traceback_of
from flare_runtime.run.worker import LogForwarder, main_module_hidden

_CONTEXT = multiprocessing.get_context("spawn")
_PACKAGE = __name__.partition(".")[0]

# A head asks the cloud's metadata service for its name even where Ray's reports are off; nothing of ours uses HTTP.
_NO_LOOK_UPS = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost"}


class LostDriverError(Exception):
    """The driver has ended, and with it the connection to the cluster."""


class Driver:
    """The process, as the program sees it.

    Args:
        order: what its fleet does.
    """

    def __init__(self, order: FleetOrder) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run, args=(order, theirs), name="flare-driver", daemon=True)
        with main_module_hidden():
            self._process.start()
        theirs.close()
        self._sending = Lock()

    def give(self, cases: Sequence[Case], left: int) -> None:
        """Give it cases, and say how many may come later."""
        self._send(CasesGiven(tuple(cases), left))

    def receive(self) -> DriverMessage:
        """Wait for a message.

        Raises:
            LostDriverError: where the process has ended.
        """
        try:
            message: DriverMessage = self._connection.recv()
        except (EOFError, OSError) as error:  # perhaps in the middle of a message
            raise LostDriverError from error
        return message

    def end(self, limit_s: float) -> None:
        """Have it stop the actors and end, and wait for that, but not for longer; for another thread too."""
        self._send(None)
        self._process.join(limit_s)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()

    def _send(self, message: CasesGiven | None) -> None:
        with suppress(OSError), self._sending:  # it has ended, which its messages will show
            self._connection.send(message)


def _run(order: FleetOrder, connection: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # the program gets them too, and acts upon them
        signal.signal(number, signal.SIG_IGN)
    drop_output()  # a lost cluster makes Ray's libraries print pages
    sending = Lock()

    def say(message: DriverMessage) -> None:
        with suppress(OSError), sending:  # the program is gone
            connection.send(message)

    logging.getLogger().addHandler(LogForwarder(say))
    logging.getLogger(_PACKAGE).setLevel(order.actor.log_level)
    heard: SimpleQueue[CasesGiven | None] = SimpleQueue()
    Thread(target=_listen, args=(connection, heard.put), daemon=True).start()
    try:
        _drive(order, say, heard)
    except FlareError as error:
        say(error)
    except Exception as error:
        say(LostDeviceError(f"the driver failed ({type(error).__name__}: {visible(error)})", traceback_of(error)))
    finally:
        os._exit(0)  # what Ray would do at the end may hang where the cluster is lost


def _drive(order: FleetOrder, say: Callable[[DriverMessage], None], heard: "SimpleQueue[CasesGiven | None]") -> None:
    silence_command()
    if order.address == LOCAL:
        # Else anyone on the network could give it work.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        os.environ.update(_NO_LOOK_UPS)
    from flare_runtime.cluster.fleet import Fleet  # imports Ray, which the program itself never does
    from flare_runtime.cluster.ray_cluster import LostClusterError

    with suppress(LostClusterError):
        Fleet(order, say, heard).run()


def _listen(connection: Connection, put: Callable[[CasesGiven | None], None]) -> None:
    try:
        while (given := connection.recv()) is not None:
            put(given)
    except (EOFError, OSError):  # the program is gone
        pass
    finally:
        put(None)
