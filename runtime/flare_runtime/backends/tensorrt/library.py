"""TensorRT, its lean runtime or TensorRT for RTX, imported when it is first needed, and what it says of its errors."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.errors import DeviceError, install_hint

if TYPE_CHECKING:
    import tensorrt as trt

_T = TypeVar("_T")
PackageName: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class Package:
    """A package with TensorRT's interface.

    Attributes:
        name: what `--backend` calls it.
        title: what NVIDIA calls it.
        modules: that it may be, the first that can be imported.
        extra: of this package that installs it.
        portable: whether an engine is built without a GPU and runs on every GPU of its compute capability, where its
            kernels are compiled when it is first used.
    """

    name: PackageName
    title: str
    modules: tuple[str, ...]
    extra: str
    portable: bool = False

    def load(self) -> ModuleType:
        """Return the module.

        Raises:
            AbsentEngineError: where it is not installed.
        """
        problem = ""
        for name in self.modules:
            try:
                return import_module(name)
            except (ImportError, OSError) as error:  # also the bindings without the library they load
                problem = problem or str(error).partition("\n")[0]
        lean = ", or tensorrt-lean-cu13, which runs version-compatible engines but builds none"
        instead = lean if LEAN in self.modules else ""
        raise AbsentEngineError(f"{self.title} is not installed ({problem}); {install_hint(self.extra)}{instead}")

    def version(self) -> str:
        """Return its version."""
        return str(vars(self.load())["__version__"])

    def is_lean(self) -> bool:
        """Whether only the lean runtime is there, which builds no engines."""
        return self.load().__name__ == LEAN

    def check_builder(self) -> None:
        """Refuse to go on where the builder is not installed.

        Raises:
            DeviceError: that says what to install.
        """
        if self.is_lean():
            raise DeviceError(f"{LEAN} runs engines but builds none; {install_hint(self.extra)}")


LEAN = "tensorrt_lean"
TENSORRT = Package("tensorrt", "TensorRT", ("tensorrt", LEAN), "tensorrt")
RTX = Package("tensorrt-rtx", "TensorRT for RTX", ("tensorrt_rtx",), "rtx", portable=True)


class Log:
    """TensorRT's errors: its calls raise none, they return None or an object that must not be touched.

    Attributes:
        package: whose they are.
        errors: in one line each, the latest last.
        details: everything else that it says, each whole; nothing unless asked for.
        logger: an `ILogger` that appends to both.
    """

    def __init__(self, package: Package, *, detailed: bool = False) -> None:
        self.package = package
        self.errors: list[str] = []
        self.details: list[str] = []
        self.logger = _logger_into(package, self.errors, self.details if detailed else None)

    def failure(self, what: str) -> DeviceError:
        """Return the error that says what TensorRT did not do, and why."""
        why = "; ".join(self.errors[-2:]) or "it does not say why"
        return DeviceError(f"{self.package.title} {self.package.version()} {what}: {why}")

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


def _logger_into(package: Package, errors: list[str], details: list[str] | None) -> "trt.ILogger":
    """Return a logger that appends errors, and everything else where there is a list for it."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = package.load()

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:  # TensorRT calls this, from any thread
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                errors.append(msg.partition("\n")[0])
            elif details is not None:
                details.append(msg)

    return Logger()
