"""An actor: a process of the cluster that has the model loaded and segments the cases that it is given."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

from flare_runtime.cases.case import Case
from flare_runtime.cluster.given_cases import GivenCases
from flare_runtime.cluster.messages import ActorMessage, ActorReady, CaseHeld, CaseSettled
from flare_runtime.cluster.orders import ActorOrder
from flare_runtime.errors import BundleError, FlareError, LostDeviceError
from flare_runtime.files.naming import visible
from flare_runtime.program.command_line import skip_model_converter
from flare_runtime.program.interruption import Interruption
from flare_runtime.program.telemetry import silence_command
from flare_runtime.program.terminal import drop_output
from flare_runtime.run.claims import Claims
from flare_runtime.run.events import CaseProgress, Event
from flare_runtime.run.record import traceback_of
from flare_runtime.run.session import Run, Session
from flare_runtime.run.worker import LogForwarder

_PACKAGE = __name__.partition(".")[0]


class CaseActor:
    """Segments cases in a thread of its own; it is made in the main thread of a process that does nothing else.

    Args:
        order: what it does.
    """

    def __init__(self, order: ActorOrder) -> None:
        self._order = order
        self._said: SimpleQueue[ActorMessage | None] = SimpleQueue()
        self._coming: list[Case] = []
        self._queue: GivenCases | None = None
        self._run: Run | None = None
        self._giving = threading.Lock()
        silence_command()
        drop_output()  # which Ray keeps in files of its own; libraries may quote what a scan says of its patient
        skip_model_converter()
        logging.getLogger().addHandler(LogForwarder(self._said.put))
        logging.getLogger(_PACKAGE).setLevel(order.log_level)
        interruption = Interruption()
        interruption.final_steps = [(lambda _word: self.stop(), 1.0)]
        interruption.begin()

    def messages(self) -> Iterator[ActorMessage]:
        """Open the model, and yield what there is to say of it and of the cases, until the actor is stopped."""
        threading.Thread(target=self._work, name="work", daemon=True).start()
        while (message := self._said.get()) is not None:
            yield message

    def give(self, cases: Sequence[Case]) -> None:
        """Add cases."""
        with self._giving:
            if self._queue is None:
                self._coming.extend(cases)
            else:
                for case in cases:
                    self._queue.give(case)

    def stop(self) -> None:
        """Let other workers have the cases in work, and write nothing more; the process is to be ended behind it."""
        if self._run is not None:
            self._run.stop()
            self._run.clean_up()

    def _work(self) -> None:
        try:
            self._segment()
        except FlareError as error:
            self._said.put(error)
        except Exception as error:
            self._said.put(LostDeviceError(f"{type(error).__name__}: {visible(error)}", traceback_of(error)))
        finally:
            self._said.put(None)

    def _segment(self) -> None:
        order = self._order
        session = Session(order.bundle, order.options, listener=self._on_event)
        host = os.uname().nodename
        if session.bundle.sha256 != order.bundle_sha256:
            raise BundleError(f"{session.bundle.path}: is another model on {visible(host)} than here; copy it there")
        queue = GivenCases(
            Claims(order.rules, session.recipe),
            self._said.put,
            lambda case, record: self._said.put(CaseSettled(case, record)),
            lambda case: self._said.put(CaseHeld(case)),
        )
        self._run = session.over(queue)
        with self._giving:
            self._queue = queue
            for case in self._coming:
                queue.give(case)
        self._said.put(ActorReady(host))
        for record in self._run:
            assert queue.settled is not None
            if record.reason == "taken_over":
                self._said.put(CaseHeld(queue.settled))
            else:
                self._said.put(CaseSettled(queue.settled, record))

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, CaseProgress):  # ten a second, of each actor
            self._said.put(event)
