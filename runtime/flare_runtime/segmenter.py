"""The model, loaded once, and what it makes of a case."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from time import perf_counter
from typing import TypeAlias

import numpy as np

from flare_runtime.backends.gpu import GpuNetwork
from flare_runtime.backends.selection import Choice, choose, expected_precision, open_network, read_network
from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.compute.device import HOST, Device, open_device
from flare_runtime.compute.network import Network
from flare_runtime.errors import GpuMemoryError, UsageError
from flare_runtime.imaging.volume import Remark, Template, Volume
from flare_runtime.model.bundle import Bundle, default_bundle
from flare_runtime.model.manifest import MIN_STEP, CTScheme
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.gpu_memory import DEFAULT_GPU_MEMORY_MIB, CaseSize, MemoryPlan, smallest_plan
from flare_runtime.pipeline.host_memory import HostMemory, engine_bytes, give_back, network_bytes
from flare_runtime.pipeline.inference import BlendedScores, Progress, TiledInference
from flare_runtime.pipeline.lesions import find_lesions
from flare_runtime.pipeline.preprocessing import Prepared, prepare
from flare_runtime.pipeline.resampling import Resizing
from flare_runtime.pipeline.restoring import restore
from flare_runtime.segmentation import Segmentation

CROPS = ("nonzero", "body")
# A network that sees lesions in noise would fill the memory, and the record, with millions of them.
MAX_LESIONS = 10_000
# Decides what of a case is on a GPU, None for the host; may refuse the case.
Plan: TypeAlias = Callable[[CaseSize], MemoryPlan | None]


@dataclass(frozen=True)
class PreparedCase:
    """A case on the network's grid.

    Attributes:
        prepared: what the network is to see; None where every voxel was zero.
        template: of the input.
        remarks: what was odd about it.
        seconds: how long preparing took.
    """

    prepared: Prepared | None
    template: Template
    remarks: tuple[Remark, ...]
    seconds: float


class Segmenter:
    """A bundle's network, compiled and ready.

    Several threads may share one. They take turns, one case at a time: the network takes all cores anyway, and the
    memory is that of one case, for which it was checked.

    Example:
        >>> segmenter = Segmenter.load("models/default")
        >>> result = segmenter.segment(read_volume("case_0000.nii.gz"))
        >>> result.mask.sum(), result.lesions
    """

    def __init__(
        self,
        bundle: Bundle,
        network: "Network | Future[Network]",
        *,
        step: float | None = None,
        tta: bool = False,
        crop: str = "nonzero",
        any_intensity: bool = False,
        device: "Device | Future[Device]" = HOST,
        plan: Plan = lambda _size: None,
        memory: HostMemory | None = None,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.memory = memory or HostMemory(bundle.manifest)
        self._network = network
        self._device = device
        self._plan = plan
        self._threads = threads
        self._rescuer: Network | None = None
        self._turn = RLock()
        manifest = bundle.manifest
        self.step = manifest.step if step is None else step
        if not MIN_STEP <= self.step <= 1:
            raise UsageError(f"step is {self.step:g}; it must be at least {MIN_STEP} and at most 1")
        self.tta = tta
        if crop not in CROPS:
            raise UsageError(f"crop is {crop!r}; choose one of {', '.join(CROPS)}")
        if crop == "body" and not isinstance(manifest.channels[0].normalisation, CTScheme):
            raise UsageError(f"--crop body is for CT; this model takes {manifest.channels[0].name}")
        self.crop = crop
        self.any_intensity = any_intensity
        self._mirror_axes = manifest.mirror_axes if tta else ()
        self._decoder = Decoder(manifest.network.outputs, manifest.regions_class_order)

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle | None = None,
        *,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        step: float | None = None,
        tta: bool = False,
        crop: str = "nonzero",
        any_intensity: bool = False,
        threads: int | None = None,
        gpu_memory_mib: int = DEFAULT_GPU_MEMORY_MIB,
        wait: bool = True,
    ) -> "Segmenter":
        """Open a bundle (the default model where none is named) and compile its network.

        Args:
            bundle: folder or zip made by `flare-export`, or one that is open already.
            device: `auto` (a GPU where one can be used), `cpu` or `cuda:N`.
            backend: `auto`, `openvino`, `onnxruntime`, `tensorrt` or `cudnn`.
            precision: `auto`, `fp32`, `bf16`, `int8` or `fp16`; see `flare_runtime.backends.selection.choose`.
            threads: for the network on the CPU; all cores where None.
            gpu_memory_mib: the bound of what is taken of a GPU's memory.
            step: distance of neighbouring tiles as a share of the patch; the bundle's own where None.
            tta: average over all flips the model was trained for, as nnU-Net does by default.
            crop: `nonzero` as nnU-Net does, or `body`: the network sees the patient alone, without the air around.
            any_intensity: segment a CT that is not in Hounsfield units, with a remark, instead of refusing it.
            wait: False compiles in the background, while the first case is read; errors come when it is needed.

        Raises:
            BundleError, DeviceError, UsageError: as `Bundle.open` and `open_network` do.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or default_bundle())
        choice = choose(opened, device, backend, precision)
        compiled = read_network(opened, choice, threads=threads, gpu_memory_mib=gpu_memory_mib)
        worker = ThreadPoolExecutor(1, "compile")
        place = worker.submit(open_device, choice.device)
        network = worker.submit(lambda: compiled(place.result()))
        worker.shutdown(wait=wait)
        if wait:
            network.result()
        memory = _host_memory(opened, choice, network)
        return cls(
            opened,
            network,
            step=step,
            tta=tta,
            crop=crop,
            any_intensity=any_intensity,
            device=place,
            plan=memory.check if choice.device == "cpu" else _gpu_plan(network),
            memory=memory,
            threads=threads,
        )

    @property
    def network(self) -> Network:
        """The compiled network, once it is.

        Raises:
            BundleError, DeviceError, UsageError: where it cannot be compiled.
        """
        return self._network.result() if isinstance(self._network, Future) else self._network

    @property
    def device(self) -> Device:
        """Where the network runs.

        Raises:
            DeviceError: where it is not to be had.
        """
        return self._device.result() if isinstance(self._device, Future) else self._device

    def segment(
        self,
        image: Volume | Sequence[Volume] | AnyArray,
        spacing_mm: Vector3 | None = None,
        *,
        progress: Progress = iter,
    ) -> Segmentation:
        """Segment one case.

        Args:
            image: a `Volume`, one per channel, or an array (z, y, x) or (channels, z, y, x) in the intensities the
                model was trained on, Hounsfield units for CT.
            spacing_mm: (z, y, x), for arrays only.
            progress: wraps the sequence of tiles, for a progress bar.

        Raises:
            CaseError: where the case does not fit the model.
            UsageError: where the arguments contradict each other.
        """
        with self._turn:
            try:
                return self.finish(self.prepare(image, spacing_mm), progress=progress)
            except GpuMemoryError:
                pass  # until here its traceback holds the arrays
            self.device.release()
            return self.finish(self.prepare(image, spacing_mm, smallest=True), progress=progress)

    def prepare(
        self,
        image: Volume | Sequence[Volume] | AnyArray,
        spacing_mm: Vector3 | None = None,
        *,
        smallest: bool = False,
    ) -> "PreparedCase":
        """Do the first half of `segment`, after which the images can be let go while the network runs.

        `smallest` takes as little of a GPU's memory as can be.
        """
        started = perf_counter()
        channels = _channels(image, spacing_mm)
        device = self.device
        with self._turn, device.active():
            prepared = prepare(
                channels,
                self.bundle.manifest,
                device,
                self._planner(smallest),
                body_only=self.crop == "body",
                any_intensity=self.any_intensity,
            )
        remarks = tuple(remark for volume in channels for remark in volume.remarks)
        return PreparedCase(prepared, channels[0].template, remarks, perf_counter() - started)

    def _planner(self, smallest: bool) -> Plan:
        if not self.device.is_gpu:
            return self._plan  # and no wait for the network
        plan = smallest_plan if smallest else self._plan
        folds = len(self.bundle.manifest.provenance.checkpoints)
        return lambda size: plan(replace(size, batch=self.network.batch, folds=folds))

    def finish(self, case: "PreparedCase", *, progress: Progress = iter) -> Segmentation:
        """Do the second half of `segment`: run the network on a prepared case and restore its labels."""
        geometry = case.template.geometry
        mask = np.zeros(geometry.shape, np.uint8)
        prepared = case.prepared
        if prepared is None:
            timings = {"preprocess": case.seconds, "network": 0.0, "blend": 0.0, "restore": 0.0}
            empty = Remark("all_zero", "every voxel is 0; the mask is empty")
            return Segmentation(mask, [], timings, case.template, (*case.remarks, empty))
        network, device, memory = self.network, self.device, prepared.memory
        sums = device if memory is None or memory.sums_on_device else HOST
        give_back()
        with self._turn, device.active():
            device.release()
            started = perf_counter()
            blended = self._infer(prepared, sums, progress)
            inferred_at = perf_counter()
            self._restore(blended.scores, prepared, mask, sums)
            gpu_memory_mib = network.memory_mib(memory) if isinstance(network, GpuNetwork) and memory else None
        lesions = find_lesions(mask, geometry.spacing_mm, MAX_LESIONS + 1)
        timings = {
            "preprocess": case.seconds,
            "network": blended.network_s,
            "blend": inferred_at - started - blended.network_s,
            "restore": perf_counter() - inferred_at,
        }
        remarks = case.remarks + prepared.remarks
        if len(lesions) > MAX_LESIONS:
            del lesions[MAX_LESIONS:]
            remarks += (Remark("many_lesions", f"there are more than {MAX_LESIONS:,} lesions; the largest are listed"),)
        if blended.rescued:
            text = f"{blended.rescued} tile(s) overflowed in {network.precision} and were computed again in float32"
            remarks += (Remark("overflow", text),)
        names = self.bundle.manifest.label_names
        lesions = [lesion.described(names, geometry) for lesion in lesions]
        return Segmentation(mask, lesions, timings, case.template, remarks, gpu_memory_mib)

    def _infer(self, prepared: Prepared, sums: Device, progress: Progress) -> BlendedScores:
        network = self.network
        inference = TiledInference(
            network,
            self._decoder,
            self.bundle.manifest.patch,
            self.step,
            self._mirror_axes,
            self.device,
            rescue=self._float32_network if network.precision != "fp32" else None,
        )
        try:
            return inference.run(prepared.image, prepared.region, sums=sums, progress=progress)
        finally:
            network.release()
            if self._rescuer is not None:
                self._rescuer.release()

    def _float32_network(self) -> Network:
        """Return the network on the CPU in float32, compiled when it is first needed."""
        if self._rescuer is None:
            self._rescuer = open_network(self.bundle, device="cpu", precision="fp32", threads=self._threads)
        return self._rescuer

    def _restore(self, scores: AnyArray, prepared: Prepared, mask: MaskArray, device: Device) -> None:
        manifest = self.bundle.manifest
        inner, crop = prepared.inner, prepared.crop
        resizing = Resizing.between(
            inner.shape, crop.shape, manifest.spacing_mm, prepared.spacing_mm, manifest.logits_resampling
        )
        target = mask.transpose(manifest.transpose_forward)[crop]
        restore(inner.cut(scores), resizing, self._decoder, target, device)


def _host_memory(bundle: Bundle, choice: Choice, network: "Future[Network]") -> HostMemory:
    manifest, folds = bundle.manifest, len(bundle.networks(choice.stored))
    if choice.device != "cpu":
        return HostMemory(manifest)
    running = network_bytes(manifest, choice.backend, expected_precision(bundle, choice), folds)
    return HostMemory(manifest, running, lambda: 0 if network.done() else engine_bytes(manifest, folds))


def _gpu_plan(network: "Future[Network]") -> Plan:
    def plan(size: CaseSize) -> MemoryPlan:
        compiled = network.result()
        assert isinstance(compiled, GpuNetwork)
        return compiled.budget.plan(size)

    return plan


def _channels(image: Volume | Sequence[Volume] | AnyArray, spacing_mm: Vector3 | None) -> list[Volume]:
    if isinstance(image, np.ndarray):
        if spacing_mm is None:
            raise UsageError("an array needs spacing_mm, in mm, (z, y, x)")
        if len(spacing_mm) != 3 or not all(0 < side < np.inf for side in spacing_mm):
            raise UsageError(f"spacing_mm is {tuple(spacing_mm)}; give three positive numbers, (z, y, x)")
        if image.ndim not in (3, 4):
            raise UsageError(f"the array has {image.ndim} axes; give (z, y, x) or (channels, z, y, x)")
        arrays = image[None] if image.ndim == 3 else image
        return [Volume.of_array(array, spacing_mm) for array in arrays]
    if spacing_mm is not None:
        raise UsageError("spacing_mm goes with arrays; a Volume has its own")
    return [image] if isinstance(image, Volume) else list(image)
