"""Which engine runs a bundle's network, in which precision, and the network opened there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flare_runtime.backends.openvino.int8 import ActivationRange, cpu_has_int8, decode_ranges
from flare_runtime.compute.available_memory import MORE_MEMORY, check_engine_fits, lacked_memory
from flare_runtime.compute.device import CudaDevice, Device, open_device, resolve
from flare_runtime.compute.network import Ensemble, Network
from flare_runtime.errors import BundleError, DeviceError, FlareError, UsageError
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import BundleFile
from flare_runtime.pipeline.gpu_memory import DEFAULT_GPU_MEMORY_MIB

BACKENDS = ("openvino", "onnxruntime", "tensorrt", "cudnn")
PRECISIONS = ("fp32", "bf16", "int8", "fp16")
_CPU_ALONE = ("bf16", "int8")
_FLOAT16_ALONE = ("tensorrt", "cudnn")
# What a reduced precision must have shown in the bundle's parity record before `auto` takes it.
MIN_AUTO_DICE = 0.995


@dataclass(frozen=True)
class Choice:
    """What is to run a bundle's network.

    Attributes:
        device: `cpu` or `cuda:N`.
        backend: one of `BACKENDS`, or `auto` on a GPU, which is decided when the network is compiled.
        precision: one of `PRECISIONS`; `auto` on the CPU is decided when the network is compiled.
    """

    device: str
    backend: str
    precision: str

    @property
    def stored(self) -> str:
        """The precision of the bundle's network that is read."""
        return "fp16" if self.precision == "fp16" and self.backend != "cudnn" else "fp32"


def choose(bundle: Bundle, device: str = "auto", backend: str = "auto", precision: str = "auto") -> Choice:
    """Check a person's wishes against each other and the bundle, and decide what they leave open.

    Args:
        bundle: whose record decides between precisions.
        device: `auto`, `cpu` or `cuda:N`; see `flare_runtime.compute.device.resolve`.
            What only the CPU has makes `auto` that.
        backend: one of `BACKENDS`, or `auto`.
        precision: one of `PRECISIONS`, or `auto`: on the CPU int8 or, where that has it, bfloat16, on a GPU float16,
            each only where the bundle's own record shows that it agrees with float32; else float32.

    Raises:
        UsageError: for a name that is not known, and where what was asked for goes together on no machine.
        DeviceError: where this machine lacks what was asked for.
    """
    _check_choice("backend", backend, ("auto", *BACKENDS))
    _check_choice("precision", precision, ("auto", *PRECISIONS))
    if device == "auto" and (backend == "openvino" or precision in _CPU_ALONE):
        device = "cpu"
    wanted, device = device, resolve(device)
    if device == "cpu":
        return Choice(device, *_on_cpu(backend, precision, DeviceError if wanted == "auto" else UsageError))
    if backend == "openvino":
        raise UsageError(f"the openvino backend runs on the CPU; use --device cpu, or another backend on {device}")
    if precision in _CPU_ALONE:
        raise UsageError(f"there is no {precision} on GPUs; use --precision fp16 or fp32")
    if precision == "auto":
        precision = "fp16" if backend in _FLOAT16_ALONE or agrees(bundle, "onnxruntime", "fp16") else "fp32"
    if backend in _FLOAT16_ALONE and precision != "fp16":
        raise UsageError(f"the {backend} backend runs fp16 alone; use --backend onnxruntime for fp32")
    return Choice(device, backend, precision)


def _on_cpu(backend: str, precision: str, problem: type[FlareError]) -> tuple[str, str]:
    """Decide for the CPU; what it cannot do is a `problem`."""
    backend = "openvino" if backend == "auto" else backend
    if backend in _FLOAT16_ALONE:
        raise problem(f"the {backend} backend needs a GPU; use --device cuda:0, or --backend openvino")
    if backend == "onnxruntime" and precision in _CPU_ALONE:
        raise problem(f"the onnxruntime backend has no {precision}; use --backend openvino or --precision fp32")
    if backend == "openvino" and precision == "fp16":
        raise problem("the openvino backend has no fp16 on the CPU; use --backend onnxruntime or --precision bf16")
    if backend == "onnxruntime" and precision == "auto":
        precision = "fp32"
    return backend, precision


def open_network(
    bundle: Bundle, *, device: str = "auto", backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Network:
    """Compile a bundle's network for this machine, as `choose` decides.

    Args:
        bundle: where the network comes from.
        device: as for `choose`.
        backend: as for `choose`.
        precision: as for `choose`.
        threads: for the network on the CPU; None leaves it to the backend.

    Raises:
        UsageError: for a name that is not known.
        DeviceError: where this machine lacks what was asked for.
        BundleError: where the network is missing or was changed.
    """
    choice = choose(bundle, device, backend, precision)
    return read_network(bundle, choice, threads=threads)(open_device(choice.device))


def read_network(
    bundle: Bundle, choice: Choice, *, threads: int | None = None, gpu_memory_mib: int = DEFAULT_GPU_MEMORY_MIB
) -> Callable[[Device], Network]:
    """Read and check a network's files, which is quick, and return what compiles it for the opened device."""
    files = bundle.networks(choice.stored)
    if not files:
        raise BundleError(f"{bundle.path.name}: no {choice.stored} network in the bundle; export it anew")
    models = [bundle.read_network(file) for file in files]
    ranges = _activation_ranges(bundle, choice)

    def compiled(device: Device) -> Network:
        members: list[Network]
        if isinstance(device, CudaDevice):
            from flare_runtime.backends.gpu import open_on_gpu

            members = [open_on_gpu(bundle, choice, models, device, gpu_memory_mib)]
        else:
            check_engine_fits()
            try:
                members = list(_on_host(bundle, choice, models, ranges, threads))
            except Exception as error:
                if not lacked_memory(error):
                    raise
                raise DeviceError(f"too little memory to compile the network; {MORE_MEMORY}") from error
        models.clear()  # the engines have copies of their own
        return members[0] if len(members) == 1 else Ensemble(members)

    return compiled


def expected_precision(bundle: Bundle, choice: Choice) -> str:
    """Return the precision that `auto` takes on this CPU, if it has bfloat16, or the one that was asked for."""
    if choice.precision != "auto":
        return choice.precision
    if (
        agrees(bundle, "openvino", "int8")
        and cpu_has_int8()
        and len(_ranges_by_fold(bundle)) == len(bundle.networks("fp32"))
    ):
        return "int8"
    return "bf16" if agrees(bundle, "openvino", "bf16") else "fp32"


def _activation_ranges(bundle: Bundle, choice: Choice) -> Sequence[Mapping[str, ActivationRange] | None]:
    """Return what each fold's network needs for int8, None where it is to run in something else."""
    if choice.backend != "openvino" or expected_precision(bundle, choice) != "int8":
        return [None] * len(bundle.networks(choice.stored))
    files = [_ranges_by_fold(bundle).get(file.fold) for file in bundle.networks("fp32")]
    found = [decode_ranges(bundle.read(file)) for file in files if file is not None]
    if len(found) < len(files):
        raise BundleError(
            f"{bundle.path.name}: {len(found)} of {len(files)} networks can run in int8; add what it takes: "
            f"flare-export int8 {bundle.path} --calibrate CASES"
        )
    return found


def _ranges_by_fold(bundle: Bundle) -> dict[str | None, BundleFile]:
    return {file.fold: file for file in bundle.activations()}


def _on_host(
    bundle: Bundle,
    choice: Choice,
    models: list[bytes],
    ranges: Sequence[Mapping[str, ActivationRange] | None],
    threads: int | None,
) -> Sequence[Network]:
    if choice.backend == "onnxruntime":
        from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork

        return [OnnxRuntimeNetwork(model, choice.stored, threads) for model in models]
    from flare_runtime.backends.openvino.network import OpenVINONetwork, cpu_has_bf16

    wanted = expected_precision(bundle, choice)
    if wanted == "bf16" and choice.precision == "auto" and not cpu_has_bf16():
        wanted = "fp32"
    return [OpenVINONetwork(model, wanted, threads, found) for model, found in zip(models, ranges, strict=True)]


def _check_choice(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise UsageError(f"{what} {given!r} is not known; choose one of {', '.join(allowed)}")


def agrees(bundle: Bundle, backend: str, precision: str) -> bool:
    """Whether the bundle's record holds whole cases with something to find, and all of them agree."""
    dices = [
        record.dice
        for record in bundle.manifest.parity
        if (record.backend, record.precision, record.scope) == (backend, precision, "case") and record.foreground_voxels
    ]
    return bool(dices) and min(dices) >= MIN_AUTO_DICE
