"""Choose the engine and the precision for a bundle, and open its networks."""

import logging
from collections.abc import Sequence

from flare_runtime.backends.engine import AbsentEngineError, Choice, Compile, Engine
from flare_runtime.backends.registry import backend_names, engines_on, find_engine
from flare_runtime.compute.available_memory import MORE_MEMORY, check_engine_fits, lacked_memory
from flare_runtime.compute.device import Device, open_device, resolve
from flare_runtime.compute.network import Network
from flare_runtime.errors import BundleError, DeviceError, FlareError, GpuMemoryError, LostDeviceError, UsageError
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import CTScheme
from flare_runtime.options import Precision, RunOptions, check_choice

_LOG = logging.getLogger(__name__)
# What a reduced precision must have shown in the bundle's parity record before `auto` takes it.
MIN_AUTO_DICE = 0.995


def choose(bundle: Bundle, options: RunOptions | None = None) -> Choice:
    """Check options against the bundle and the engines, and decide what they leave open.

    The device `auto` is the first GPU, or the CPU where no GPU can be used or no engine of GPUs has the backend or the
    precision that was asked for. The precision `auto` is int8 or bfloat16 on the CPU and float16 on a GPU, each only
    where the bundle's record shows that it agrees with float32 and the CPU computes in it; else float32.

    Args:
        bundle: the model.
        options: the defaults where None.

    Raises:
        UsageError: for a name that is not known, options of another type, and where what was asked for goes together
            on no machine.
        DeviceError: where this machine lacks what was asked for.
        BundleError: where the bundle holds no network in the precision.
    """
    options = RunOptions() if options is None else options
    if not isinstance(options, RunOptions):
        raise UsageError(f"the options are of type {type(options).__qualname__}; give RunOptions(...)")
    check_choice("backend", options.backend, ("auto", *backend_names()))
    _check_crop(bundle, options)
    wanted = "cpu" if options.device == "auto" and _needs_cpu(options) else options.device
    device = resolve(wanted, lambda: any(engine.available() for engine in engines_on(gpu=True)))
    if device == "cpu":
        engine = _cpu_engine(options, DeviceError if wanted == "auto" else UsageError)
    else:
        engine = _gpu_engine(options, device)
    precision = _auto_precision(bundle, engine) if options.precision == "auto" else options.precision
    networks = tuple(bundle.networks(engine.stored(precision)))
    if not networks:
        raise BundleError(f"{bundle.path.name}: no {engine.stored(precision)} network in the bundle; export it anew")
    backend = options.backend if device != "cpu" else engine.name
    return Choice(bundle, options, device, backend, precision, networks)


def _check_crop(bundle: Bundle, options: RunOptions) -> None:
    channel = bundle.manifest.channels[0]
    if options.crop == "body" and not isinstance(channel.normalisation, CTScheme):
        raise UsageError(f"--crop body is for CT; this model takes {channel.name}")


def _needs_cpu(options: RunOptions) -> bool:
    """Whether a backend or a precision was asked for that no GPU has."""
    no_backend = options.backend != "auto" and find_engine(options.backend, gpu=True) is None
    return no_backend or (options.precision != "auto" and not _offered(options.precision, gpu=True))


def _offered(precision: Precision, *, gpu: bool) -> list[str]:
    """Return the names of the engines that compute in a precision."""
    return [engine.name for engine in engines_on(gpu) if precision in engine.precisions]


def _cpu_engine(options: RunOptions, problem: type[FlareError]) -> Engine:
    """Return the engine on the CPU; what it cannot do is a `problem`."""
    default = next(engines_on(gpu=False))
    engine = default if options.backend == "auto" else find_engine(options.backend, gpu=False)
    if engine is None:
        raise problem(f"the {options.backend} backend needs a GPU; use --device cuda:0, or --backend {default.name}")
    if options.precision != "auto" and options.precision not in engine.precisions:
        here = " on the CPU" if _offered(options.precision, gpu=True) else ""
        others = "".join(f"--backend {name} or " for name in _offered(options.precision, gpu=False)[:1])
        instead = f"{others}--precision {engine.precisions[0]}"
        raise problem(f"the {engine.name} backend has no {options.precision}{here}; use {instead}")
    return engine


def _gpu_engine(options: RunOptions, device: str) -> Engine:
    """Return the engine on a GPU: with `auto` the last that is tried, which runs where no other does."""
    *_, last = engines_on(gpu=True)
    engine = last if options.backend == "auto" else find_engine(options.backend, gpu=True)
    if engine is None:
        raise UsageError(
            f"the {options.backend} backend runs on the CPU; use --device cpu, or another backend on {device}"
        )
    if options.precision != "auto" and not _offered(options.precision, gpu=True):
        raise UsageError(f"there is no {options.precision} on GPUs; use --precision fp16 or fp32")
    if options.precision != "auto" and options.precision not in engine.precisions:
        raise UsageError(
            f"the {engine.name} backend runs {' and '.join(engine.precisions)} alone; use --backend {last.name} for "
            f"{options.precision}"
        )
    return engine


def _auto_precision(bundle: Bundle, engine: Engine) -> Precision:
    for precision in engine.lower:
        rounded = precision != "int8" or len({file.fold for file in bundle.activations()}) == bundle.folds
        if agrees(bundle, engine.name, precision) and rounded and engine.computes(precision):
            return precision
    return engine.precisions[0]


def open_network(bundle: Bundle, options: RunOptions | None = None) -> Network:
    """Compile a bundle's network for this machine, as `choose` decides.

    Raises:
        UsageError, DeviceError, BundleError: as `choose` and `read_network` do.
    """
    choice = choose(bundle, options)
    return read_network(choice)(open_device(choice.device))


def read_network(choice: Choice) -> Compile:
    """Read and check the networks' files, which is quick, and return what compiles them for the opened device.

    For a GPU they are read when they are compiled: which files that takes is known only then.

    Raises:
        BundleError: where a file is missing or was changed.
    """
    engines = [engine for engine in engines_on(choice.on_gpu) if choice.backend in ("auto", engine.name)]
    if choice.on_gpu:
        return _first_that_works([engine for engine in engines if choice.precision in engine.precisions], choice)
    compile_networks = engines[0].open(choice)

    def compiled(device: Device) -> Network:
        check_engine_fits()
        try:
            return compile_networks(device)
        except Exception as error:
            if not lacked_memory(error):
                raise
            raise DeviceError(f"too little memory to compile the network; {MORE_MEMORY}") from error

    return compiled


def _first_that_works(engines: Sequence[Engine], choice: Choice) -> Compile:
    def compiled(device: Device) -> Network:
        for engine in engines[:-1]:
            if not engine.available():
                continue
            try:
                return engine.open(choice)(device)
            except LostDeviceError:  # nothing works in this process any more
                raise
            except AbsentEngineError:
                pass
            except (DeviceError, GpuMemoryError) as error:
                _LOG.warning("%s is left for another engine: %s", engine.name, error)
            device.release()
        try:
            return engines[-1].open(choice)(device)
        except GpuMemoryError as error:  # no case is to blame
            raise DeviceError(str(error)) from error

    return compiled


def agrees(bundle: Bundle, backend: str, precision: str) -> bool:
    """Whether the bundle's record holds whole cases with something to find, and all of them agree."""
    dices = [
        record.dice
        for record in bundle.manifest.parity
        if (record.backend, record.precision, record.scope) == (backend, precision, "case") and record.foreground_voxels
    ]
    return bool(dices) and min(dices) >= MIN_AUTO_DICE
