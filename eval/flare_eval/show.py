"""`python -m flare_eval.show`: a first look at masks: Dice and lesions found, or volumes, and pictures."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flare_eval.accuracy.detection import detect
from flare_eval.accuracy.label_image import read_label_image
from flare_eval.accuracy.rules import dice
from flare_eval.method_paths import named_paths
from flare_eval.report.overlay import draw_overlay
from flare_eval.report.tables import found_of
from flare_eval.report.upright import Upright
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.errors import UsageError
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.target import check_targets
from flare_runtime.imaging.file_names import image_name, mask_name, split_channel
from flare_runtime.imaging.plausibility import ANY_SPACING
from flare_runtime.imaging.read import read_volume
from flare_runtime.pipeline.normalisation import AIR_HU
from flare_runtime.program.command_line import exit_code_of, new_parser, path_of
from flare_runtime.program.terminal import open_streams, print_line


@dataclass(frozen=True)
class Case:
    """The files of one case: its image, its reference if there is one, and its masks by method."""

    name: str
    image: Path
    reference: Path | None
    masks: Mapping[str, Path]

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.image, *([self.reference] if self.reference else []), *self.masks.values()]


def look_at(case: Case, picture: Path) -> list[str]:
    """Draw one case and return a line for each mask: Dice and lesions found, or its volume without a reference.

    Raises:
        CaseError: where a file cannot be read.
        UsageError: where they are not on one grid.
    """
    image = read_volume(case.image, plausible=ANY_SPACING)
    truth = read_label_image(case.reference).labels if case.reference else None
    masks = {name: read_label_image(path).labels for name, path in case.masks.items()}
    for labels in (*([] if truth is None else [truth]), *masks.values()):
        if labels.shape != image.shape:
            raise UsageError(f"{case.name}: its image measures {image.shape} voxels (z, y, x), a mask {labels.shape}")
    said = {name: _said(truth, mask, float(np.prod(image.spacing_mm)) / 1000) for name, mask in masks.items()}
    upright = Upright(image)
    png = draw_overlay(
        upright.turned(image.with_background(AIR_HU).intensities(image.voxels)),
        upright.spacing(image.spacing_mm),
        {f"{name}   {said[name]}": upright.turned(mask) for name, mask in masks.items()},
        None if truth is None else upright.turned(truth),
        title=case.name,
        sides_known=upright.known,
    )
    with replacing(picture) as file:
        file.write(png)
    return [f"{name}: {text}" if len(said) > 1 else text for name, text in said.items()]


def _said(truth: MaskArray | None, mask: MaskArray, voxel_ml: float) -> str:
    if truth is None:
        _, count = detect(np.zeros_like(mask), mask, voxel_ml)
        return f"{np.count_nonzero(mask) * voxel_ml:.2f} ml in {count} part{'s' * (count != 1)}"
    lesions, _ = detect(truth, mask, voxel_ml)
    return f"Dice {dice(truth, mask):.4f}, {found_of(lesions)} lesions found"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser("python -m flare_eval.show", "A first look at masks: Dice, lesions found, a picture.")
    add = parser.add_argument
    add("-i", "--images", type=path_of, required=True, help="folder of <case>_0000.nii.gz")
    add("-r", "--references", type=path_of, help="folder of <case>.nii.gz, where there are any")
    add(
        "-p",
        "--predictions",
        action="append",
        required=True,
        metavar="[METHOD=]DIR",
        help="folder of <case>.nii.gz; again for a further method, whose masks are drawn below",
    )
    add("-o", "--output", type=path_of, required=True, help="folder for the pictures")
    return parser.parse_args(argv)


def find_cases(images: Path, references: Path | None, predictions: Mapping[str, Path]) -> list[Case]:
    """Return the images that have a prediction and, where references are given, one of those.

    Raises:
        UsageError: where there is none.
    """
    for folder in (images, *([references] if references else []), *predictions.values()):
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder")
    cases = []
    for path in sorted(images.glob(image_name("*"))):
        name, _ = split_channel(path.name)
        found = {method: folder / mask_name(name) for method, folder in predictions.items()}
        masks = {method: mask for method, mask in found.items() if mask.is_file()}
        reference = references / mask_name(name) if references else None
        if masks and (reference is None or reference.is_file()):
            cases.append(Case(name, path, reference, masks))
    if not cases:
        raise UsageError(f"{images}: no image has {'both a reference and a' if references else 'a'} prediction")
    return cases


def run(args: argparse.Namespace) -> int:
    """Look at every case, draw it and print a line for each of its masks.

    Raises:
        UsageError: where there is none.
        OutputError: where a picture cannot or must not be written.
    """
    cases = find_cases(args.images, args.references, named_paths(args.predictions))
    pictures = {case.name: args.output / f"{case.name}.png" for case in cases}
    check_targets(pictures.values(), (path for case in cases for path in case.files))
    check_folder(args.output)
    for case in cases:
        for line in look_at(case, pictures[case.name]):
            print_line(f"{case.name}: {line} ({pictures[case.name]})")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, look at the masks and return the exit code."""
    open_streams()
    args = parse_args(argv)
    return exit_code_of("flare_eval.show", lambda: run(args), "eval")


if __name__ == "__main__":
    sys.exit(main())
