"""Hands the cases of a run to a driver, and to another one where it is lost with its cluster."""

import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import replace

from flare_runtime.cases.case import Case
from flare_runtime.cluster.address import LOCAL, answers
from flare_runtime.cluster.driver import Driver, LostDriverError
from flare_runtime.cluster.messages import CaseSettled, CasesWanted, Connected, DriverMessage
from flare_runtime.cluster.orders import FleetOrder
from flare_runtime.errors import DeviceError, FlareError, LostDeviceError
from flare_runtime.run.claims import Kept
from flare_runtime.run.events import CaseKept, DeviceFallback, Event, Listener, NetworkReady
from flare_runtime.run.journal import Journal
from flare_runtime.run.queue import ListedCases
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.worker import LogLine

_LOG = logging.getLogger(__name__)
# How long another head is waited for, and the pause between two looks.
_NEW_HEAD_S, _PAUSE_S = 300.0, 1.0
# Drivers that may be lost one after the other without a case settled.
_MOST_LOST = 3
# How long the driver may take to end its actors: at the end, and where the program is interrupted.
_END_S, _STOP_S = 20.0, 0.8


class Dispatch(ListedCases):
    """The cases of a run, those in work being with a driver.

    Args:
        cases: of the run.
        order: for the drivers.
        journal: notes the cases that stay as another run has left them.
        listener: is called with events.
    """

    def __init__(self, cases: Sequence[Case], order: FleetOrder, journal: Journal, listener: Listener) -> None:
        super().__init__(cases)
        self._order = order
        self._journal = journal
        self._listener = listener
        self._told: set[Event] = set()
        self._driver: Driver | None = None
        # Of the cluster, once a driver has found it.
        self._address = ""
        self._lost = 0
        self._is_closed = False
        # While another cluster is waited for.
        self._wait_until: float | None = None

    def records(self) -> Generator[CaseRecord, None, None]:
        """Yield the record of each case that is settled.

        Raises:
            FlareError: where no further case can be segmented.
        """
        try:
            while self._is_unfinished:
                try:
                    yield from self._drive()
                except LostDriverError:
                    if self._is_closed:  # another thread has ended it
                        return
                    self._take_back()
                    self._wait_for_cluster()
        finally:
            if self._driver is not None:
                self._driver.end(_END_S)
                self._driver.kill()

    def close(self) -> None:
        """Finish, and have the actors give their cases to other workers; for another thread too."""
        self._is_closed = True
        super().close()
        if self._driver is not None:
            self._driver.end(_STOP_S)

    @property
    def _is_unfinished(self) -> bool:
        return bool(self.left or self.in_work)

    def _drive(self) -> Generator[CaseRecord, None, None]:
        """Have one driver do all there is.

        Raises:
            LostDriverError: where it is lost.
        """
        self._driver = driver = Driver(self._order)
        while self._is_unfinished:
            message = driver.receive()
            if isinstance(message, CasesWanted):
                self._give(driver, message.count)
            elif isinstance(message, CaseSettled):
                self._settled(message.case)
                yield message.record
            elif isinstance(message, Connected):
                self._wait_until, self._address = None, message.address
            elif isinstance(message, FlareError):
                self._fail(message)
            else:
                self._note(message)

    def _give(self, driver: Driver, count: int) -> None:
        cases: list[Case] = []
        while len(cases) < count and (case := self.take()):
            cases.append(case)
        driver.give(cases, self.left)

    def _settled(self, case: Case) -> None:
        self.settle(case)
        self._lost = 0

    def _note(self, message: DriverMessage) -> None:
        if isinstance(message, Kept):
            self._settled(message.case)
            self._journal.keep(message)
            self._listener(CaseKept(message.case.name, message.status, message.reason, message.message))
        elif isinstance(message, LogLine):
            logging.getLogger(message.logger).log(message.level, "%s", message.text)
        elif isinstance(message, NetworkReady | DeviceFallback) and message not in self._told:  # many say the same
            self._told.add(message)
            self._listener(message)

    def _fail(self, error: FlareError) -> None:
        """End the run for what a driver could not go on for, or wait where another one may."""
        if isinstance(error, LostDeviceError):
            _LOG.warning("%s", error)
            _LOG.info(error.traceback or "")
        elif self._wait_until is None:
            raise error
        raise LostDriverError from error

    def _take_back(self) -> None:
        """Let the cases come again that the lost driver had; those that are done will be kept."""
        for case in reversed(self.in_work):
            self.give_back(case)

    def _wait_for_cluster(self) -> None:
        """Wait until there is a cluster in the place of the lost one.

        Raises:
            DeviceError: where there is none after a while, or drivers are lost one after the other.
        """
        assert self._driver is not None
        self._driver.kill()
        if self._wait_until is None:
            self._lost += 1
            if not self._address or self._lost > _MOST_LOST:
                raise DeviceError("Ray does not work here: what holds the connection to it ended without a word")
            if self._order.address == LOCAL:
                return
            _LOG.warning("the Ray cluster at %s was lost; waiting for another in its place", self._address)
            self._wait_until = time.monotonic() + _NEW_HEAD_S
            self._order = replace(self._order, address=self._address)
        while True:
            time.sleep(_PAUSE_S)
            if time.monotonic() > self._wait_until:
                raise DeviceError(
                    f"the Ray cluster at {self._address} was lost, and none came in its place within "
                    f"{_NEW_HEAD_S:.0f} s; finished cases are kept, and the same command goes on"
                )
            if answers(self._address):
                return
