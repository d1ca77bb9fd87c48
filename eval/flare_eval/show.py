"""`python -m flare_eval.show`: a first look at masks: Dice, lesions found and missed, a picture of each case."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flare_eval.accuracy.detection import detect
from flare_eval.accuracy.rules import dice
from flare_eval.labels import read_labels
from flare_eval.report.overlay import draw_overlay
from flare_runtime.compute.arrays import MaskArray
from flare_runtime.errors import UsageError
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.target import check_targets
from flare_runtime.imaging.file_names import image_name, mask_name, split_channel
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.normalisation import AIR_HU
from flare_runtime.program.command_line import exit_code_of, new_parser, path_of
from flare_runtime.program.terminal import open_streams, print_line


@dataclass(frozen=True)
class Look:
    """One case in numbers: Dice, and how many reference lesions the prediction touches."""

    case: str
    dice: float
    found: int
    lesions: int

    @property
    def line(self) -> str:
        """The same for a person."""
        return f"{self.case}: Dice {self.dice:.4f}, {self.found} of {self.lesions} lesions found"


def look_at(image: Volume, truth: MaskArray, mask: MaskArray, case: str, picture: Path) -> Look:
    """Compare one case and draw it.

    Raises:
        UsageError: where the three are not on one grid.
    """
    if not image.shape == truth.shape == mask.shape:
        raise UsageError(f"{case}: image, reference and prediction measure {image.shape}, {truth.shape}, {mask.shape}")
    overlap = dice(truth, mask)
    lesions, _ = detect(truth, mask, voxel_ml=1.0)
    hounsfield = image.with_background(AIR_HU).intensities(image.voxels)
    png = draw_overlay(hounsfield, image.spacing_mm, mask, truth, title=f"{case}   Dice {overlap:.3f}")
    with replacing(picture) as file:
        file.write(png)
    return Look(case, overlap, sum(lesion.found for lesion in lesions), len(lesions))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser("python -m flare_eval.show", "A first look at masks: Dice, lesions found, a picture.")
    parser.add_argument("-i", "--images", type=path_of, required=True, help="folder of <case>_0000.nii.gz")
    parser.add_argument("-r", "--references", type=path_of, required=True, help="folder of <case>.nii.gz")
    parser.add_argument("-p", "--predictions", type=path_of, required=True, help="folder of <case>.nii.gz")
    parser.add_argument("-o", "--output", type=path_of, required=True, help="folder for the pictures")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Look at every image that has a reference and a prediction, and print a line for each.

    Raises:
        UsageError: where there is none.
        OutputError: where a picture cannot or must not be written.
    """
    cases: dict[str, tuple[Path, Path, Path]] = {}
    for path in sorted(args.images.glob(image_name("*"))):
        case, _ = split_channel(path.name)
        label, mask = args.references / mask_name(case), args.predictions / mask_name(case)
        if label.is_file() and mask.is_file():
            cases[case] = path, label, mask
    if not cases:
        raise UsageError(f"{args.images}: no image has both a reference and a prediction")
    pictures = {case: args.output / f"{case}.png" for case in cases}
    check_targets(pictures.values(), (path for paths in cases.values() for path in paths))
    check_folder(args.output)
    for case, (image, label, mask) in cases.items():
        look = look_at(read_volume(image), read_labels(label)[1], read_labels(mask)[1], case, pictures[case])
        print_line(f"{look.line} ({args.output / look.case}.png)")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, look at the masks and return the exit code."""
    open_streams()
    args = parse_args(argv)
    return exit_code_of("flare_eval.show", lambda: run(args), "eval")


if __name__ == "__main__":
    sys.exit(main())
