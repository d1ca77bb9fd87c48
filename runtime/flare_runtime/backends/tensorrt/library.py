"""TensorRT itself or its lean runtime, imported when it is first needed, and what it says of its errors."""

import ctypes
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.errors import DeviceError, install_hint

__all__ = ["Log", "check_builder", "is_lean", "load", "trt", "version"]

_T = TypeVar("_T")


def load() -> ModuleType:
    """Return TensorRT, or its lean runtime where there is no other.

    Raises:
        DeviceError: where neither is installed.
    """
    problem = ""
    for name in ("tensorrt", "tensorrt_lean"):
        try:
            return import_module(name)
        except (ImportError, OSError) as error:  # also the bindings without the library they load
            problem = problem or str(error).partition("\n")[0]
    raise AbsentEngineError(
        f"TensorRT is not installed ({problem}); {install_hint('tensorrt')}, or tensorrt-lean-cu13, which runs "
        "version-compatible engines but builds none"
    )


class _OnFirstUse:
    """Stands for the module until something of it is needed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load(), name)


if TYPE_CHECKING:
    import tensorrt as trt
else:
    trt = _OnFirstUse()


def is_lean() -> bool:
    """Whether only the lean runtime is there, which builds no engines."""
    return load().__name__ == "tensorrt_lean"


def check_builder() -> None:
    """Refuse to go on where TensorRT's builder is not installed.

    Raises:
        DeviceError: that says what to install.
    """
    if is_lean():
        raise DeviceError(f"tensorrt_lean runs engines but builds none; {install_hint('tensorrt')}")


def version() -> str:
    """Return TensorRT's version."""
    return str(vars(load())["__version__"])


class Log:
    """TensorRT's errors: its calls raise none, they return None or an object that must not be touched.

    Attributes:
        errors: in one line each, the latest last.
        logger: an `ILogger` that appends to `errors`.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.logger = _logger_into(self.errors)

    def failure(self, what: str) -> DeviceError:
        """Return the error that says what TensorRT did not do, and why."""
        return DeviceError(f"TensorRT {version()} {what}: {'; '.join(self.errors[-2:]) or 'it does not say why'}")

    def require(self, result: _T | None, what: str) -> _T:
        """Return a result of TensorRT.

        Raises:
            DeviceError: where it is None, which the stubs do not say.
        """
        if result is None:
            raise self.failure(what)
        return result

    def create(self, make: "Callable[[trt.ILogger], _T]", what: str) -> _T:
        """Return what `make` makes of the logger: TensorRT's runtime or builder.

        Raises:
            DeviceError: where TensorRT complained, as it does of a driver too old for it.
        """
        result = make(self.logger)
        if self.errors:
            # An object around nothing: to use it, or only to delete it, ends the process. So it is never deleted.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(result))
            raise self.failure(what)
        return result


def _logger_into(errors: list[str]) -> "trt.ILogger":
    """Return a logger of TensorRT that appends its errors to a list."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:  # TensorRT calls this, from any thread
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                errors.append(msg.partition("\n")[0])

    return Logger()
