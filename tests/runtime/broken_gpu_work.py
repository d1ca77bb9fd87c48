"""The work of a run on a machine whose GPU cannot be used."""

from collections.abc import Iterable, Iterator

from flare_runtime.cases.case import Case
from flare_runtime.errors import DeviceError
from flare_runtime.run.events import Listener
from flare_runtime.run.record import CaseRecord
from flare_runtime.run.work import CaseWork


class LateBrokenGpuWork(CaseWork):
    """Fails in a worker, after the first case."""

    def __call__(self, cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        yield CaseRecord(case=next(iter(cases)).name, status="done")
        raise DeviceError("cuda:0 cannot be used (it fell off the bus)")


class BrokenGpuWork(CaseWork):
    """Fails in a worker, and works on the CPU."""

    def __call__(self, _cases: Iterable[Case], _listener: Listener) -> Iterator[CaseRecord]:
        raise DeviceError("cuda:0 cannot be used (the driver is too old)")
