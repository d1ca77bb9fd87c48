"""What can go wrong, each kind with the exit code that `flare-infer` documents for it."""

from copyreg import __newobj__  # type: ignore[attr-defined]


class FlareError(Exception):
    """The root of every error this package raises on purpose; its text is one line for the user."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Go to other processes as it is: its text alone would not do for every `__init__`."""
        return __newobj__, (type(self), *self.args), self.__dict__


class UsageError(FlareError):
    """The command line, or the arguments of a call, make no sense together."""

    exit_code = 2


class CaseError(FlareError):
    """One case cannot be segmented; others can.

    Args:
        reason: a stable snake_case word for reports, such as `truncated`.
        message: what was given, what is allowed, what to do.
    """

    exit_code = 4

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class GpuMemoryError(CaseError):
    """The GPU's memory did not suffice for a case; it may for less of the case at once."""

    def __init__(self, message: str) -> None:
        super().__init__("gpu_memory", f"out of GPU memory ({message}); raise --gpu-memory or use --device cpu")


class DeviceError(FlareError):
    """The device, backend or precision that was asked for is not to be had on this machine."""

    exit_code = 5


class LostDeviceError(DeviceError):
    """The device failed in the middle of work; in this process it will not work again.

    Attributes:
        traceback: of an error that nobody foresaw and that was taken for such a failure.
    """

    def __init__(self, message: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


class OutputError(FlareError):
    """A result cannot be written; nothing half-written is left behind."""

    exit_code = 6


class StoreError(OutputError):
    """An object store does not answer, for none of the cases."""


class BundleError(FlareError):
    """The bundle is missing a file, was changed, or does not follow the schema."""

    exit_code = 7


def install_hint(extra: str) -> str:
    """Say how to install an extra of this package, which is on no index: from the folder that it was cloned into."""
    return f"pip install '.[{extra}]' in the folder of flare-lite"


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's exception says, without what a terminal would obey."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)
