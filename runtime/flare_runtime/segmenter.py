"""A loaded model, which segments cases."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path
from threading import Lock, RLock
from time import perf_counter
from typing import TypeVar

import numpy as np

from flare_runtime import __version__
from flare_runtime.backends.case_memory import Place, gpu_place, host_memory, host_memory_of, postprocessing_of
from flare_runtime.backends.engine import Choice
from flare_runtime.backends.gpu import GpuNetwork, compile_beside
from flare_runtime.backends.selection import choose, open_network, read_network
from flare_runtime.compute.arrays import Vector3
from flare_runtime.compute.device import HOST, Device, as_gpu, open_device
from flare_runtime.compute.network import Network
from flare_runtime.errors import GpuMemoryError
from flare_runtime.imaging.inputs import Image, as_volumes, files_of
from flare_runtime.imaging.labelling import Labelling
from flare_runtime.imaging.volume import ALL_SLICES, Remark, Volume
from flare_runtime.model.bundle import Bundle, open_bundle
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.case_restoring import CaseRestoring
from flare_runtime.pipeline.case_stages import BlendedCase, PreparedCase, PreviousResult
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.gpu_memory import CaseSize, Placement, smallest_placement
from flare_runtime.pipeline.host_memory import HostMemory, give_back
from flare_runtime.pipeline.inference import BlendedScores, Progress, TiledInference
from flare_runtime.pipeline.lesions import measure_lesions
from flare_runtime.pipeline.preprocessing import Prepared, prepare
from flare_runtime.pipeline.probability_maps import MapsTo, ProbabilityMaps
from flare_runtime.pipeline.reader_rules import ReaderRules
from flare_runtime.segmentation import Segmentation

_T = TypeVar("_T")


class Segmenter:
    """A bundle's network, compiled and ready.

    Several threads may share one. They take turns, one case at a time: the network takes all cores anyway, and the
    memory is that of one case, for which it was checked.

    Example:
        >>> segmenter = Segmenter.load("models/default", RunOptions(device="cpu"))
        >>> result = segmenter.segment("scan.nii.gz")
        >>> result.mask.sum(), result.lesions
    """

    def __init__(
        self,
        bundle: Bundle,
        network: "Network | Future[Network]",
        options: RunOptions | None = None,
        *,
        device: "Device | Future[Device]" = HOST,
        place: Place = lambda _size: None,
        memory: HostMemory | None = None,
        previous: "Segmenter | None" = None,
    ) -> None:
        self.bundle = bundle
        self.options = options or RunOptions()
        self.postprocessing = postprocessing_of(bundle, self.options)
        self.memory = memory or host_memory(bundle, self.options)
        self.rules = ReaderRules.of(
            bundle.manifest,
            reorient=self.options.reorient,
            any_spacing=self.options.any_spacing,
            max_shear=self.options.max_shear,
        )
        self._network = network
        self._device = device
        self._place = place
        self._previous = previous
        self._rescuer: Network | None = None
        self._turn = RLock()
        self._at_network = Lock()
        self._decoder = Decoder(bundle.manifest.network.outputs, bundle.manifest.regions_class_order)

    @classmethod
    def load(
        cls, bundle: str | Path | Bundle | None = None, options: RunOptions | None = None, *, wait: bool = True
    ) -> "Segmenter":
        """Open a bundle (the default model where none is named) and compile its network.

        Args:
            bundle: folder or zip made by `flare-export`, or one that is open already.
            options: what to run it on, and how; the defaults where None.
            wait: False compiles in the background, while the first case is read; errors come when it is needed.

        Raises:
            BundleError, DeviceError, UsageError: as `Bundle.open` and `choose` do.
        """
        return cls.open(choose(open_bundle(bundle), options), wait=wait)

    @classmethod
    def open(cls, choice: Choice, *, wait: bool = True) -> "Segmenter":
        """Compile the networks that were chosen, as `load` does.

        Raises:
            BundleError, DeviceError: where they cannot be read or compiled.
        """
        worker = ThreadPoolExecutor(2, "compile")
        opened = worker.submit(open_device, choice.device)
        try:
            segmenter = cls._compiling(choice, worker, opened)
            if choice.on_gpu:
                worker.submit(lambda: as_gpu(opened.result()).warm_up())  # what fails there fails again later
        finally:
            worker.shutdown(wait=wait)
        if wait:
            segmenter.network  # noqa: B018  raises what went wrong
        return segmenter

    @classmethod
    def _compiling(
        cls, choice: Choice, worker: ThreadPoolExecutor, opened: "Future[Device]", *, keeps_scan: bool = False
    ) -> "Segmenter":
        """Return a segmenter whose networks `worker` compiles: those of a previous stage first."""
        compile_networks, stage = read_network(choice), choice.previous_stage
        previous = None if stage is None else cls._compiling(stage, worker, opened, keeps_scan=True)
        before = (None, None) if previous is None else (previous._network, previous.memory)
        network = worker.submit(compile_beside, compile_networks, opened, before[0])
        memory = host_memory_of(choice, network, before[1], keeps_scan=keeps_scan)
        place = gpu_place(network) if choice.on_gpu else memory.check
        return cls(choice.bundle, network, choice.options, device=opened, place=place, memory=memory, previous=previous)

    @property
    def step(self) -> float:
        """Distance of neighbouring tiles as a share of the patch."""
        return self.bundle.manifest.step if self.options.step is None else self.options.step

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
        image: Image | Sequence[Image],
        spacing_mm: Vector3 | None = None,
        *,
        progress: Progress = iter,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment one case.

        Args:
            image: a file, an array (z, y, x) or (channels, z, y, x), a nibabel or SimpleITK image, a `Volume`, or a
                list of these with one for each channel; see `as_volumes`. In the intensities that the model was trained
                on, Hounsfield units for CT.
            spacing_mm: of arrays, (z, y, x).
            progress: wraps the sequence of tiles, such as `tqdm`.
            probabilities: the result is to hold them, which takes 4 bytes for every voxel and class.

        Raises:
            CaseError: where the image cannot be read or does not fit the model, or the machine could not hold the case.
            UsageError: where the image is nothing of these, or the arguments contradict each other.
            DeviceError, BundleError: where the network turns out not to be usable.

        Example:
            >>> segmenter = Segmenter.load("models/default")
            >>> result = segmenter.segment("scan.nii.gz", progress=tqdm)
            >>> result.save("mask.nii.gz")
            >>> array = np.full((40, 50, 60), -50, np.int16)  # in Hounsfield units
            >>> segmenter.segment(array, spacing_mm=(5.0, 0.8, 0.8)).lesions
        """

        def first_channel(wanted: slice) -> Volume:
            first = image[0] if isinstance(image, list | tuple) else image
            return self._volumes(first, spacing_mm, wanted)[0]

        def attempt(smallest: bool) -> Segmentation:
            prepared = self.prepare(image, spacing_mm, smallest=smallest, progress=progress)
            return self.finish(prepared, progress=progress, with_probabilities=probabilities, scan=first_channel)

        result = self.within_memory(attempt)
        return replace(result, inputs=files_of(image), keep_header_text=self.options.keep_header_text)

    def within_memory(self, attempt: Callable[[bool], _T]) -> _T:
        """Return `attempt(False)`, and where the GPU's memory ran out in it, `attempt(True)`.

        The second attempt has to take as little of that memory as can be: see `prepare`.
        """
        with self._turn:
            try:
                return attempt(False)
            except GpuMemoryError:
                pass  # until here its traceback holds the arrays
            self.device.release()
            return attempt(True)

    def prepare(
        self,
        image: Image | Sequence[Image],
        spacing_mm: Vector3 | None = None,
        *,
        smallest: bool = False,
        progress: Progress = iter,
        admit: Callable[[Placement], None] = lambda _placement: None,
    ) -> PreparedCase:
        """Do the first half of `segment`, after which the images can be let go while the network runs.

        In a cascade that is all of the previous stage as well, of which `progress` wraps the tiles. `smallest` takes as
        little of a GPU's memory as can be. `admit` is called before anything is uploaded there,
        for each stage.
        """
        started = perf_counter()
        channels = self._volumes(image, spacing_mm)
        read = self.rules.volumes(channels)
        device, template = self.device, channels[0].template
        turn = self.rules.turn(template.geometry)
        with self._turn:
            previous, previous_s = self._previous_stage(channels, smallest, progress, admit)
            with device.active():
                prepared = prepare(
                    read,
                    self.bundle.manifest,
                    device,
                    self._place_for(smallest, admit),
                    previous_mask=None if previous is None else turn.view(previous.mask),
                    body_only=self.options.crop == "body",
                    any_intensity=self.options.any_intensity,
                )
        remarks = tuple(dict.fromkeys(remark for volume in read for remark in volume.remarks))
        manifest = self.bundle.manifest
        labelling = Labelling(manifest.labels, manifest.name, self.bundle.sha256, __version__)
        template, seconds = replace(template, labelling=labelling), perf_counter() - started - previous_s
        return PreparedCase(prepared, template, turn, remarks, seconds, previous)

    def _previous_stage(
        self, channels: Sequence[Volume], smallest: bool, progress: Progress, admit: Callable[[Placement], None]
    ) -> tuple[PreviousResult | None, float]:
        """Segment a case with a cascade's previous stage, if there is one; return the result and how long it took."""
        started = perf_counter()
        if self._previous is None:
            return None, 0.0
        prepared = self._previous.prepare(channels, smallest=smallest, admit=admit)
        done = self._previous.finish(prepared, progress=progress)
        del prepared  # which on a GPU would lie beside this stage's image
        result = PreviousResult(done.mask, done.timings_s, done.remarks, done.gpu_memory_mib)
        return result, perf_counter() - started

    def _volumes(
        self, image: Image | Sequence[Image], spacing_mm: Vector3 | None, wanted: slice = ALL_SLICES
    ) -> list[Volume]:
        most, plausible, straighten = self.options.max_voxels, self.rules.plausible, self.options.straighten_tilt
        return as_volumes(image, spacing_mm, most, plausible, straighten_tilt=straighten, wanted=wanted)

    def _place_for(self, smallest: bool, admit: Callable[[Placement], None]) -> Place:
        if not self.device.is_gpu:
            return self._place  # and no wait for the network
        place = smallest_placement if smallest else self._place
        batch, folds, mirrored = self.network.batch, self.bundle.folds, bool(self._mirror_axes)

        def admitted(size: CaseSize) -> Placement | None:
            placement = place(replace(size, batch=batch, folds=folds, mirrored=mirrored))
            if placement is not None:
                admit(placement)
            return placement

        return admitted

    @property
    def _mirror_axes(self) -> tuple[int, ...]:
        return self.bundle.manifest.mirror_axes if self.options.tta else ()

    def finish(
        self,
        case: PreparedCase,
        *,
        progress: Progress = iter,
        with_probabilities: bool = False,
        maps_to: MapsTo | None = None,
        scan: Callable[[slice], Volume] | None = None,
    ) -> Segmentation:
        """Do the second half of `segment` on a case that this segmenter prepared: run the network, restore the labels.

        `maps_to` is given the probabilities as maps, on the grid that the options name, while they can be computed.
        `scan` gives the first channel again, for the intensities of lesions, which are left out where there is none.

        Another segmenter cannot: on a GPU the image lies in the memory of the one that prepared it, and goes with it.
        """
        if with_probabilities:
            padded = prod(case.prepared.image.shape[1:]) if case.prepared else 0
            self.memory.check_probabilities(case.template.geometry.shape, padded)
        with self._turn:
            blended = self.infer(case, progress=progress)
            result = self.restore(blended, with_probabilities=with_probabilities, maps_to=maps_to, scan=scan)
        return result if case.previous is None else result.after(case.previous)

    def infer(self, case: PreparedCase, *, progress: Progress = iter) -> BlendedCase:
        """Run the network over a case; meanwhile another thread may prepare the next one and restore the one before."""
        if case.prepared is None:
            return BlendedCase(case, None, 0.0)
        give_back()
        with self._at_network, self.device.active():
            self.device.release()
            started = perf_counter()
            blended = self._infer(case.prepared, progress)
        return BlendedCase(case, blended, perf_counter() - started)

    def restore(
        self,
        blended_case: BlendedCase,
        *,
        with_probabilities: bool = False,
        maps_to: MapsTo | None = None,
        scan: Callable[[slice], Volume] | None = None,
    ) -> Segmentation:
        """Turn the scores of a case into its mask, and measure the lesions in it; the scores are let go of on the way.

        `maps_to`, `scan`: see `finish`.
        """
        case, blended = blended_case.case, blended_case.blended
        blended_case.blended = None
        geometry, prepared = case.template.geometry, case.prepared
        mask = np.zeros(geometry.shape, np.uint8)
        timings = {"preprocess": case.seconds, "network": 0.0, "blend": 0.0, "restore": 0.0, "measure": 0.0}
        if prepared is None or blended is None:
            remarks = (*case.remarks, Remark("all_zero", "every voxel is 0; the mask is empty"))
            if maps_to is not None:
                maps_to(ProbabilityMaps(self._decoder, geometry, None))
            background = self._decoder.background(geometry.shape) if with_probabilities else None
            return Segmentation(mask, [], timings, case.template, remarks, probabilities=background)
        network, placement, sums = self.network, prepared.placement, self._sums_device(prepared)
        started = perf_counter()
        with self.device.active():
            restoring = CaseRestoring(self.bundle.manifest, self._decoder, prepared, blended.scores, sums)
            rows = restoring.labels(mask, case.turn)
            probabilities = self._decoder.background(geometry.shape) if with_probabilities else None
            if probabilities is not None:
                restoring.probabilities(case.turn.view(probabilities))
            if maps_to is not None:
                maps_to(restoring.maps(case, on_input=self.options.probabilities != "network"))
            gpu_memory_mib = network.memory_mib(placement) if isinstance(network, GpuNetwork) and placement else None
        rescued, timings["network"] = blended.rescued, blended.network_s
        timings["blend"] = blended_case.seconds - blended.network_s
        del blended, restoring  # its scores take the memory that components may need
        self.postprocessing.apply(mask, geometry.spacing_mm)
        timings["restore"], started = perf_counter() - started, perf_counter()
        found = measure_lesions(mask, geometry, self.bundle.manifest.label_names, scan=scan, rows=rows)
        timings["measure"] = perf_counter() - started
        remarks = (*case.remarks, *prepared.remarks, *found.remarks, *self._overflow(rescued))
        rest = case.template, remarks, gpu_memory_mib, probabilities, found.totals
        return Segmentation(mask, found.lesions, timings, *rest)

    def _overflow(self, rescued: int) -> list[Remark]:
        text = f"{rescued} tile(s) overflowed in {self.network.precision} and were computed again in float32"
        return [Remark("overflow", text)] if rescued else []

    def _sums_device(self, prepared: Prepared) -> Device:
        return self.device if prepared.placement is None or prepared.placement.sums_on_device else HOST

    def _infer(self, prepared: Prepared, progress: Progress) -> BlendedScores:
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
            return inference.run(prepared.image, prepared.region, sums=self._sums_device(prepared), progress=progress)
        finally:
            network.release()
            if self._rescuer is not None:
                self._rescuer.release()

    def _float32_network(self) -> Network:
        """Return the network on the CPU in float32, compiled when it is first needed."""
        if self._rescuer is None:
            options = RunOptions(device="cpu", precision="fp32", threads=self.options.threads)
            self._rescuer = open_network(self.bundle, options)
        return self._rescuer
