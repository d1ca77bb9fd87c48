"""Compares the runtime's masks of real cases with nnU-Net's, voxel by voxel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from flare_export.parity.agreement import compare
from flare_export.parity.nnunet_reference import NnunetReference, ReferencePrediction, largest_margin
from flare_export.source.model_folder import ModelFolder
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.imaging.file_names import case_name
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.manifest import Agreement, Manifest, Parity
from flare_runtime.segmenter import Segmenter


@dataclass(frozen=True)
class CaseParity:
    """One case on one backend.

    Attributes:
        case: its name.
        backend, precision: what ran.
        agreement: with nnU-Net's mask.
        differing: voxels with another label.
        margin: how decided nnU-Net was where the masks differ, at most: the distance of its two largest logits.
        margin_steps: the same in steps, each the least difference of logits that nnU-Net's float16 sum of tiles can
            show at that voxel.

    Of a cascade the margins are those of both stages, the second one's where nnU-Net sees the same mask of the first:
    where nnU-Net was undecided there, it sees another one by itself.
    """

    case: str
    backend: str
    precision: str
    agreement: Agreement
    differing: int
    margin: float
    margin_steps: float

    @property
    def record(self) -> Parity:
        """The same as the manifest keeps it."""
        return Parity(
            backend=self.backend,
            precision=self.precision,
            reference="nnU-Net",
            scope="case",
            subject=self.case,
            **msgspec.structs.asdict(self.agreement),
        )

    @property
    def row(self) -> str:
        """One line of the table under `HEADING`."""
        a = self.agreement
        return (
            f"{self.case:<28} {self.backend:<12} {self.precision:<5} {a.voxel_agreement:>11.5%} {a.dice:>9.6f} "
            f"{self.differing:>9} {a.foreground_voxels:>11} {self.margin:>9.2g} {self.margin_steps:>9.1f}"
        )


HEADING = (
    f"{'case':<28} {'backend':<12} {'prec.':<5} {'voxels equal':>11} {'Dice':>8} "
    f"{'differing':>9} {'foreground':>11} {'margin':>9} {'steps':>9}"
)


def measure_case_parity(
    folder: ModelFolder, segmenters: Sequence[Segmenter], cases: Sequence[Sequence[Path]], *, tta: bool = False
) -> Iterator[CaseParity]:
    """Segment every case with nnU-Net's predictor and with each segmenter, and compare.

    Args:
        folder: the nnU-Net model.
        segmenters: the bundle made of it, on several backends or precisions; they must use `tta` alike.
        cases: for each case the files of its channels.
        tta: whether nnU-Net mirrors.
    """
    oracle = NnunetReference(folder, tta=tta)
    for channels in cases:
        expected = oracle.predict(channels)
        rules = segmenters[0].rules
        volumes = [read_volume(path, plausible=rules.plausible) for path in channels]
        turn = rules.turn(volumes[0].geometry)  # nnU-Net's mask is as its reader turned the images
        for segmenter in segmenters:
            case = segmenter.prepare(volumes)
            mask = turn.view(segmenter.finish(case).mask)
            stages = [(expected, mask)]
            if expected.previous is not None and case.previous is not None:
                seen = turn.view(case.previous.mask)
                alike = bool((seen == expected.previous.mask).all())
                given = replace(expected.previous, mask=seen)
                stages = [(expected.previous, seen), (expected if alike else oracle.predict(channels, given), mask)]
            margin, steps = np.max([_margins(*stage, segmenter.bundle.manifest) for stage in stages], axis=0)
            yield CaseParity(
                case_name(channels[0]),
                segmenter.network.backend,
                segmenter.network.precision,
                compare(expected.mask, mask),
                int(np.count_nonzero(mask != expected.mask)),
                float(margin),
                float(steps),
            )


def _margins(expected: ReferencePrediction, mask: MaskArray, manifest: Manifest) -> tuple[float, float]:
    regions = manifest.regions_class_order is not None
    return largest_margin(expected, mask, manifest.transpose_forward, regions=regions)
