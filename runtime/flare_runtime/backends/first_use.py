"""Compare an engine of GPUs with float32, once for each bundle on each machine, and keep the result."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.backends.registry import running_bytes
from flare_runtime.backends.selection import choose, open_network
from flare_runtime.backends.synthetic_patch import structured_patch
from flare_runtime.compute.arrays import AnyArray, FloatArray
from flare_runtime.compute.device import Device
from flare_runtime.compute.network import Network
from flare_runtime.errors import CaseError, DeviceError, GpuMemoryError, LostDeviceError
from flare_runtime.files.private_notes import PrivateNotes
from flare_runtime.files.this_process import has_ended, process_id
from flare_runtime.imaging.volume import Grid
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.gpu_memory import CaseSize
from flare_runtime.pipeline.host_memory import HostMemory, engine_bytes, give_back

_LOG = logging.getLogger(__name__)
# Of the scores' standard deviation. Half precision costs a hundredth at most; what is computed wrongly is off by about
# one.
MAX_RELATIVE_ERROR = 0.05
# Where a process died during the first use, the engine is not tried again for so long: another worker would die.
_PAUSE_S = 600.0


@dataclass(frozen=True)
class Check:
    """The state of the comparison of an engine.

    Attributes:
        begun_at: when its first use began, in seconds since 1970.
        begun_by: the process that began it.
        relative_error: the root mean square difference from float32, over the standard deviation of the worst class's
            scores; None until it was measured.
    """

    begun_at: float
    begun_by: str = ""
    relative_error: float | None = None


class FirstUse:
    """The first use of an engine with one bundle's networks on one GPU.

    Args:
        bundle: where they come from.
        key: under which its result is kept.
        required: compare even where the result cannot be kept.

    Raises:
        DeviceError: where the engine is known not to work here, or cannot be checked.
    """

    def __init__(self, bundle: Bundle, key: GpuEngineKey, *, required: bool) -> None:
        self._bundle = bundle
        self._key = key
        self._notes = PrivateNotes("gpu")
        check = self._notes.find(key, Check)
        now = time.time()
        begun = check is not None and check.relative_error is None and 0 <= now - check.begun_at < _PAUSE_S
        if check and begun and has_ended(check.begun_by):  # one that is still at it says nothing yet
            raise DeviceError(
                f"{key.engine} is left alone for ten minutes, as its first use here did not come to its end"
            )
        if not self._notes.kept and not required:
            raise DeviceError(f"there is no private cache folder to keep whether {key.engine} computes the same")
        self._check = check if check and check.relative_error is not None else None
        if self._check:
            self._require(self._check)
        else:
            self._begun = Check(now, process_id())
            self._notes.keep(key, self._begun)

    @contextmanager
    def watched(self, device: Device) -> Iterator[None]:
        """Make the device active for the engine's first steps.

        Where they fail but neither process nor device is lost, that the first use began is forgotten: too little
        memory, for one, says nothing of the engine.
        """
        try:
            with device.active():  # says of CUDA's errors whether the device is lost
                yield
        except LostDeviceError:
            raise
        except BaseException:
            if self._check is None:
                self._notes.keep(self._key, Check(0.0))
            raise

    def compare(self, network: Network, device: Device) -> None:
        """Compare the engine with float32 on the CPU, unless that was done before; the device has to be active.

        It takes a whole batch of different tiles.

        Raises:
            DeviceError: where it does not compute the same, or the machine lacks the memory to know.
        """
        if self._check:
            return
        name = self._key.engine
        _LOG.warning("%s is compared with float32 on the CPU, once on this machine", name)
        manifest = self._bundle.manifest
        patches = [structured_patch(manifest.inputs, manifest.patch, seed) for seed in range(network.batch)]
        try:
            found = np.array(device.download(network.run(device.upload(np.concatenate(patches)))))
            expected = self._in_float32(patches)
        except (GpuMemoryError, CaseError) as error:
            raise DeviceError(f"{name} could not be compared with float32: {error}") from error
        decoder = Decoder(manifest.network.outputs, manifest.regions_class_order)
        pairs = zip(found, expected, strict=True)
        off = max(relative_error(decoder.scores(logits), decoder.scores(right)) for logits, right in pairs)
        self._check = replace(self._begun, relative_error=off)
        self._notes.keep(self._key, self._check)
        _LOG.info("%s differs from float32 by %.2g of the scores' deviation", name, off)
        self._require(self._check)

    def _in_float32(self, tiles: Sequence[FloatArray]) -> list[AnyArray]:
        """Return the logits (outputs, z, y, x) of each tile (1, channels, z, y, x)."""
        manifest = self._bundle.manifest
        folds = self._bundle.folds
        options = RunOptions(device="cpu", backend="openvino", precision="fp32")
        grid = Grid(manifest.patch, manifest.spacing_mm, 4)
        size = CaseSize.of([grid] * len(manifest.channels), manifest.patch, manifest)
        running = running_bytes(choose(self._bundle, options))
        HostMemory(manifest, running, lambda: engine_bytes(manifest, folds)).check(size)
        network = open_network(self._bundle, options)
        logits = [np.array(network.run(tile)[0]) for tile in tiles]
        del network
        give_back()
        return logits

    def _require(self, check: Check) -> None:
        if not (check.relative_error is not None and check.relative_error <= MAX_RELATIVE_ERROR):
            raise DeviceError(
                f"{self._key.engine} does not compute the same as float32 here: its scores differ by "
                f"{check.relative_error:.2g} of their deviation, {MAX_RELATIVE_ERROR} is allowed"
            )


def relative_error(scores: AnyArray, expected: AnyArray) -> float:
    """Return how far scores (channels, z, y, x) are off: root mean square over deviation, in the worst channel.

    Where expected scores are all but the same, a hundredth of their size stands in for the deviation.
    """
    axes = (1, 2, 3)
    off = np.sqrt(np.mean(np.square(scores - expected, dtype=np.float64), axes))
    size = np.sqrt(np.mean(np.square(expected, dtype=np.float64), axes))
    spread = np.maximum(np.std(expected, axes, dtype=np.float64), np.maximum(0.01 * size, 1e-6))
    worst = float(np.max(off / spread))
    return worst if np.isfinite(worst) else 1e9
