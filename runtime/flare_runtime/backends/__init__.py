"""The engines that can run a network, behind one small protocol."""

from collections.abc import Callable
from typing import Protocol

from flare_runtime.arrays import FloatArray
from flare_runtime.bundle import Bundle
from flare_runtime.errors import BundleError, DeviceError, UsageError

BACKENDS = ("openvino", "onnxruntime")
PRECISIONS = ("fp32", "bf16", "fp16")
# What a reduced precision must have shown in the bundle's parity record before `auto` takes it.
MIN_AUTO_DICE = 0.995


class Network(Protocol):
    """One compiled network."""

    backend: str
    device: str
    precision: str

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (n, outputs, z, y, x) of `tiles` (n, channels, z, y, x).

        The result may be overwritten by the next call.
        """
        ...

    def release(self) -> None:
        """Give back memory that only running needs, where the engine can; what `run` returned is gone with it."""
        ...


class Ensemble:
    """The mean of the logits of several folds."""

    def __init__(self, members: list[Network]) -> None:
        self._members = members
        self.backend, self.device, self.precision = members[0].backend, members[0].device, members[0].precision

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the mean of the members' logits."""
        total = self._members[0].run(tiles).copy()
        for member in self._members[1:]:
            total += member.run(tiles)
        total /= len(self._members)
        return total

    def release(self) -> None:
        """Release every member's memory."""
        for member in self._members:
            member.release()


def open_network(
    bundle: Bundle, *, device: str = "auto", backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Network:
    """Compile a bundle's network for this machine.

    Args:
        bundle: where the network comes from.
        device: `auto` or `cpu`.
        backend: one of `BACKENDS`, or `auto` for OpenVINO.
        precision: one of `PRECISIONS`, or `auto`: bfloat16 where the CPU has it and the bundle's own record shows that
            it agrees with float32, else float32; `fp16` is the network that GPUs run, slow on a CPU.
        threads: for the network; None leaves it to the backend.

    Raises:
        UsageError: for a name that is not known.
        DeviceError: where this machine lacks what was asked for.
        BundleError: where the network is missing or was changed.
    """
    return read_network(bundle, device=device, backend=backend, precision=precision, threads=threads)()


def read_network(
    bundle: Bundle, *, device: str = "auto", backend: str = "auto", precision: str = "auto", threads: int | None = None
) -> Callable[[], Network]:
    """Do the quick part of `open_network`, which checks names and files, and return the slow one, which compiles."""
    _check_choice("device", device, ("auto", "cpu"))
    _check_choice("backend", backend, ("auto", *BACKENDS))
    _check_choice("precision", precision, ("auto", *PRECISIONS))
    if backend == "onnxruntime" and precision == "bf16":
        raise DeviceError("the onnxruntime backend has no bf16 on the CPU; use --backend openvino or --precision fp32")
    if backend != "onnxruntime" and precision == "fp16":
        raise DeviceError("the openvino backend has no fp16 on the CPU; use --backend onnxruntime or --precision bf16")
    stored = "fp16" if precision == "fp16" else "fp32"
    files = bundle.networks(stored)
    if not files:
        raise BundleError(f"{bundle.path.name}: no {stored} network in the bundle; export it anew")
    models = [bundle.read(file) for file in files]

    def compiled() -> Network:
        members: list[Network]
        if backend == "onnxruntime":
            from flare_runtime.backends.onnxruntime import OnnxRuntimeNetwork

            members = [OnnxRuntimeNetwork(model, stored, threads) for model in models]
        else:
            from flare_runtime.backends.openvino import OpenVINONetwork, cpu_has_bf16

            wanted = precision
            if wanted == "auto":
                wanted = "bf16" if _agrees(bundle, "openvino", "bf16") and cpu_has_bf16() else "fp32"
            members = [OpenVINONetwork(model, wanted, threads) for model in models]
        models.clear()  # the engines have copies of their own
        return members[0] if len(members) == 1 else Ensemble(members)

    return compiled


def _check_choice(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise UsageError(f"{what} {given!r} is not known; choose one of {', '.join(allowed)}")


def _agrees(bundle: Bundle, backend: str, precision: str) -> bool:
    """Whether the bundle's record holds whole cases with something to find, and all of them agree."""
    dices = [
        record.dice
        for record in bundle.manifest.parity
        if (record.backend, record.precision, record.scope) == (backend, precision, "case") and record.foreground_voxels
    ]
    return bool(dices) and min(dices) >= MIN_AUTO_DICE
