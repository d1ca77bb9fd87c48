"""What would become of an input: read or refused and why, how many tiles and how much memory. No network runs."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from flare_runtime.backends.engine import Choice
from flare_runtime.backends.registry import running_bytes
from flare_runtime.cases.case import Case
from flare_runtime.cases.finding import find_cases
from flare_runtime.cases.input_rules import InputRules
from flare_runtime.compute.device import HOST
from flare_runtime.errors import CaseError
from flare_runtime.files.naming import visible
from flare_runtime.files.temporary import temporary_folder
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.gpu_memory import CaseSize
from flare_runtime.pipeline.host_memory import HostMemory
from flare_runtime.pipeline.preprocessing import Prepared, prepare
from flare_runtime.pipeline.reader_rules import ReaderRules
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.run.serial import CaseReader
from flare_runtime.segmenter import Segmenter

_MIB = 1 << 20


@dataclass(frozen=True)
class Forecast:
    """What would become of a case.

    Attributes:
        case: its name.
        inputs: where its images are.
        reason, message: why it would be refused; None where it would be segmented.
        shape, spacing_mm: of the scan, (z, y, x).
        tiles: that the network would be run on, mirrored ones not counted.
        memory_mib: what the work would take of the machine's memory in addition to the program.
        remarks: what is odd about it.
    """

    case: str
    inputs: list[str]
    reason: str | None = None
    message: str | None = None
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    tiles: int | None = None
    memory_mib: int | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The forecast in one line."""
        if self.reason:
            return f"{self.case}: would be refused ({self.reason}): {self.message}"
        shape, spacing = "x".join(map(str, self.shape or ())), " x ".join(f"{mm:.3g}" for mm in self.spacing_mm or ())
        odd = "".join(f"; note: {remark}" for remark in self.remarks)
        return (
            f"{self.case}: {shape} voxels of {spacing} mm (z, y, x), {self.tiles} tile(s), {self.memory_mib:,} MiB{odd}"
        )


def forecast_cases(choice: Choice, source: Path, rules: InputRules) -> Iterator[Forecast]:
    """Look at every case of an input as a run would: it is read and prepared whole.

    Raises:
        UsageError: where there is no case.
    """
    channels = len(choice.bundle.manifest.channels)
    with temporary_folder(Path(gettempdir())) as nowhere:
        cases = find_cases(source, nowhere, channels, rules=rules)
    segmenter = Segmenter(choice.bundle, Future(), choice.options)  # it is given no network
    with closing(CaseReader(segmenter)) as reader:
        for case in cases:
            inputs = [visible(place) for place in case.places]
            try:
                yield _forecast(choice, case, inputs, segmenter.rules, reader)
            except CaseError as error:
                yield Forecast(case.name, inputs, error.reason, visible(error))


def _forecast(choice: Choice, case: Case, inputs: list[str], rules: ReaderRules, reader: CaseReader) -> Forecast:
    first = choice.previous_stage
    stages = [choice] if first is None else [first, choice]
    memories = [
        HostMemory(stage.bundle.manifest, None if choice.on_gpu else running_bytes(stage), keeps_scan=stage is first)
        for stage in stages
    ]
    for memory in memories:
        memory.check_before_reading(reader.grids(case))
    images = reader.read(case, hashed=False)
    volumes = rules.volumes(images)
    looks = [_look(stage, memory, volumes) for stage, memory in zip(stages, memories, strict=True)]
    prepared = looks[-1].prepared
    remarks = [remark for volume in volumes for remark in volume.remarks]
    if prepared is not None:
        remarks += prepared.remarks
    return Forecast(
        case.name,
        inputs,
        shape=images[0].shape,
        spacing_mm=images[0].spacing_mm,
        tiles=sum(_tiles(stage, look.prepared) for stage, look in zip(stages, looks, strict=True)),
        memory_mib=max(look.need_bytes for look in looks) // _MIB,
        remarks=[visible(remark.text) for remark in remarks],
    )


@dataclass(frozen=True)
class _Look:
    """What one stage would make of a case, and what of the memory it would take."""

    prepared: Prepared | None
    need_bytes: int


def _look(choice: Choice, memory: HostMemory, volumes: list[Volume]) -> _Look:
    manifest, needs = choice.bundle.manifest, list[int]()

    def place(size: CaseSize) -> None:
        memory.check(size)
        needs.append(memory.need(size).peak)

    prepared = prepare(
        volumes,
        manifest,
        HOST,
        place,
        # Nobody knows yet what a previous stage will see.
        previous_mask=np.zeros(volumes[0].shape, np.uint8) if manifest.previous_stage else None,
        body_only=choice.options.crop == "body",
        any_intensity=choice.options.any_intensity,
    )
    return _Look(prepared, max(needs, default=0))


def _tiles(choice: Choice, prepared: Prepared | None) -> int:
    manifest = choice.bundle.manifest
    if prepared is None:
        return 0
    step = manifest.step if choice.options.step is None else choice.options.step
    z, y, x = prepared.image.shape[1:]
    return len(TileGrid.covering((z, y, x), manifest.patch, step, prepared.region))
