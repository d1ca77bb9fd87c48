"""The options of a run on a command line."""

from __future__ import annotations

import argparse

from flare_runtime.program.command_line import (
    name_of,
    new_parser,
    number_of,
    path_of,
    place_of,
    positive,
    share_of,
    words_of,
)
from flare_runtime.program.parser import meant

TYPE_CHECKING = False  # of `typing`
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What `--flare` stands for: a case within 60 s and 4 GB of a GPU, half a GB of which is left to its driver, and nothing
# but masks in the output.
FLARE = "--crop body --gpu-memory 3584 --no-records"
EXIT_CODES = """\
exit codes: 0 all cases done; 1 internal error; 2 usage; 4 some cases refused or failed; 5 device;
            6 output; 7 bundle; 129, 130 and 143 interrupted; 138 and 140 preempted, cases are left
before segmenting: flare-infer list | info | doctor | check | completion, each with --help
of a folder of results: flare-infer status | merge, each with --help
on a cluster: flare-infer slurm | ray, each with --help
"""


def parse_args(
    words: Sequence[str],
    program: str = "flare-infer",
    description: str = "Segment lesions in CT volumes with a network exported from nnU-Net, without torch.",
    add_group: Callable[[argparse.ArgumentParser], None] | None = None,
    commands: Sequence[str] = (),
) -> argparse.Namespace:
    """Parse the words behind a program's name.

    Args:
        words: the words.
        program: its name.
        description: what it does.
        add_group: adds a group of options beside those of a run.
        commands: the words that may stand first in place of options, for an error that names the nearest.
    """
    parser = new_parser(program, description, EXIT_CODES)
    if add_group:
        add_group(parser)
    for add_own_group in (_add_input, _add_network, _add_output, _add_resuming, _add_run):
        add_own_group(parser)
    if words and not words[0].startswith("-"):
        parser.error(f"{words[0]}: is no command; an input goes behind -i{meant(words[0], commands)}")
    args, surplus = parser.parse_known_args(words)
    if args.flare:
        args, surplus = parser.parse_known_args([*FLARE.split(), *words])
    if surplus:
        parser.error(f"{surplus[0]}: is one input too many; -i takes one image, or a folder that holds all of them")
    return args


def _add_input(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add(
        "-i",
        "--input",
        type=place_of,
        required=True,
        metavar="IN",
        help="a NIfTI, .nrrd or .mha file, a folder of them, or DICOM; or a list of cases (.csv, .jsonl); or a URL of "
        "images (s3://, gs://, az://)",
    )
    add("--recursive", action="store_true", help="look into folders in the folder too; the output mirrors them")
    add("--shard", type=share_of, metavar="I/N", help="segment the Ith of N shares of the cases, such as 1/4")
    add("--any-intensity", action="store_true", help="take a CT that cannot be in Hounsfield units, with a remark")
    add("--any-spacing", action="store_true", help="take scans however far their spacing is from the model's")
    add(
        "--max-shear",
        type=number_of,
        metavar="DEGREES",
        help="take scans whose axes are at most so far off right angles (default: 0.6)",
    )
    add(
        "--straighten-tilt",
        action="store_true",
        help="move the slices of a tilted gantry (DICOM) onto a grid at right angles, with a remark",
    )
    add(
        "--reorient",
        metavar="CODE",
        help="turn scans so that their axes point there, such as LPS, and the masks back (default: as the model's "
        "reader does)",
    )
    add("--max-voxels", type=positive, metavar="N", help="refuse larger inputs (default: 2e9)")


def _add_network(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("network").add_argument
    add("-m", "--model", type=path_of, metavar="BUNDLE", help="folder or zip (default: the model that is shipped)")
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda:N, several GPUs as in cuda:0,cuda:1, cuda:all, or auto: a GPU where one can be used (default: "
        "%(default)s)",
    )
    add(
        "--backend",
        default="auto",
        metavar="NAME",
        help="openvino (CPU), onnxruntime, tensorrt, tensorrt-rtx or cudnn (GPU), or auto (default: %(default)s)",
    )
    add(
        "--precision",
        default="auto",
        metavar="TYPE",
        help="auto, fp32, bf16 or int8 (CPU), or fp16 (default: auto, the lowest that the bundle records to agree)",
    )
    add(
        "--step",
        type=number_of,
        metavar="SHARE",
        help="distance of tiles as a share of the patch (default: the model's, 0.5)",
    )
    add(
        "--crop",
        default="nonzero",
        metavar="HOW",
        help="nonzero, as nnU-Net does, or body: leave out the air around the patient (default: %(default)s)",
    )
    add(
        "--tta",
        action="store_true",
        help="average over mirrored tiles, as nnU-Net does by default; up to 8 times the work",
    )
    add("--threads", type=positive, metavar="N", help="for the network (default: all cores)")
    add(
        "--gpu-memory",
        dest="gpu_memory_mib",
        type=positive,
        metavar="MIB",
        help="take at most so much of a GPU's memory (default: 4096)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "-o",
        "--output",
        type=name_of,
        required=True,
        metavar="OUT",
        help="a file or a FOLDER/ for a file, a folder for a folder; or its URL",
    )
    add(
        "--output-type",
        dest="output_types",
        type=words_of,
        metavar="TYPES",
        help="nifti; of DICOM also dicom-seg or rtstruct; or several, with commas; dicom-sr adds a structured report "
        "of the lesions (default: nifti)",
    )
    add(
        "--keep-largest",
        nargs="?",
        const="label",
        metavar="HOW",
        help="keep the largest component alone: of every label, or of the whole foreground (default HOW: label)",
    )
    add("--min-volume-mm3", type=number_of, metavar="MM3", help="remove components of the mask that are smaller")
    add(
        "--probabilities",
        nargs="?",
        const="input",
        metavar="GRID",
        help="also write <case>.probabilities.npz, on the grid of the input or of the network (default GRID: input)",
    )
    add("--preview", action="store_true", help="also write <case>.preview.png: its largest lesions in three planes")
    add("--html", dest="page", action="store_true", help="also write <case>.html: its lesions, its slices, what ran")
    add("--lesions", type=path_of, metavar="FILE.csv", help="write a table of the lesions of all cases")
    add(
        "--records",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write a JSON record of each case beside its mask (default: yes)",
    )
    add(
        "--keep-header-text",
        action="store_true",
        help="copy the free text of the images' headers, which may name the patient, into the masks",
    )


def _add_resuming(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "resuming", "Any number of processes, on any machines, may resume into the same OUT at once."
    )
    add = group.add_argument
    add(
        "--resume",
        action="store_true",
        help="leave cases whose record says that they were segmented with this model, these options and these images, "
        "and share the others with all processes that do the same",
    )
    add("--resume-failed", action="store_true", help="--resume, and try those again that were refused or failed")
    add(
        "--max-tries",
        type=positive,
        metavar="N",
        help="give a case up that has failed so often, or cost so many processes (default: 5)",
    )
    add(
        "--verify-hashes",
        action="store_true",
        help="believe no size and time of change: read every input and mask again and compare their SHA-256",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("this run")
    add = group.add_argument
    add("--report", type=path_of, metavar="FILE", help="write a JSON report of the whole run")
    add("--flare", action="store_true", help=f"the FLARE challenge's rules: {FLARE}, where nothing else is given")
    verbosity = group.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="say nothing unless a case fails")
    verbosity.add_argument("--verbose", action="store_true", help="also print the time of every stage and every lesion")
