"""`flare-infer`: a CT, or a folder of them, in; masks and records out."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flare_runtime import __version__
from flare_runtime.command_line import positive
from flare_runtime.errors import FlareError

if TYPE_CHECKING:
    from flare_runtime.arrays import Box
    from flare_runtime.cases import Case
    from flare_runtime.inference import Progress
    from flare_runtime.record import CaseRecord
    from flare_runtime.tiling import TileGrid

EXIT_CODES = """\
exit codes: 0 all cases done; 1 internal error; 2 usage; 4 some cases refused or failed; 5 device;
            6 output; 7 bundle; 130 and 143 interrupted
"""
_SOME_FAILED = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="flare-infer",
        description="Segment lesions in CT volumes with a network exported from nnU-Net, without torch.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="IN", help="a .nii or .nii.gz file, or a folder of them")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="a file for a file, a folder for a folder")
    add("-m", "--model", type=Path, metavar="BUNDLE", help="folder or zip (default: the model that is shipped)")
    add("--device", default="auto", metavar="DEVICE", help="auto or cpu (default: %(default)s)")
    add("--backend", default="auto", metavar="NAME", help="auto, openvino or onnxruntime (default: %(default)s)")
    add(
        "--precision",
        default="auto",
        metavar="TYPE",
        help="auto, fp32, bf16 or fp16 (default: bf16 where it was measured to agree)",
    )
    add(
        "--step",
        type=float,
        metavar="SHARE",
        help="distance of tiles as a share of the patch (default: the model's, 0.5)",
    )
    add(
        "--tta",
        action="store_true",
        help="average over mirrored tiles, as nnU-Net does by default; up to 8 times the work",
    )
    add("--threads", type=positive, metavar="N", help="for the network (default: all cores)")
    add("--max-voxels", type=positive, default=None, metavar="N", help="refuse larger inputs (default: 2e9)")
    add("--report", type=Path, metavar="FILE", help="write a JSON report of the whole run")
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="say nothing unless a case fails")
    verbosity.add_argument("--verbose", action="store_true", help="also print the time of every stage and every lesion")
    add("--version", action="version", version=f"flare-infer {__version__}")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Segment what the arguments name and return the exit code."""
    from flare_runtime.cases import find_cases
    from flare_runtime.cohort import segment_cases
    from flare_runtime.nifti import DEFAULT_MAX_VOXELS
    from flare_runtime.output import check_folder, check_target
    from flare_runtime.record import write_report
    from flare_runtime.segmenter import Segmenter

    options = {name: getattr(args, name) for name in ("device", "backend", "precision", "step", "tta", "threads")}
    segmenter = Segmenter.load(args.model, **options, wait=False)
    cases = find_cases(args.input, args.output, len(segmenter.bundle.manifest.channels))
    if args.report:
        check_folder(args.report.parent)
        check_target(args.report, [f for c in cases for f in (*c.images.values(), c.mask, c.record)])
        if any(args.report.resolve() in (c.mask.resolve(), c.record.resolve()) for c in cases):
            from flare_runtime.errors import UsageError

            raise UsageError("the report would replace a result")

    @cache
    def announce() -> None:
        network = segmenter.network  # by now it is needed, and what is wrong with it has to be said
        if not args.quiet:
            _say(f"{segmenter.bundle.manifest.name} on {network.backend} {network.precision}, {len(cases)} case(s)")

    records: list[CaseRecord] = []
    try:
        results = segment_cases(
            segmenter,
            cases,
            max_voxels=args.max_voxels or DEFAULT_MAX_VOXELS,
            progress=lambda case: _progress_bar(case, announce, hidden=args.quiet),
        )
        for record in results:
            announce()
            records.append(record)
            _tell(record, args)
    finally:
        if args.report:
            write_report(args.report, records)
    failed = sum(record.status != "done" for record in records)
    if failed:
        _say(f"{failed} of {len(records)} case(s) not done")
    return _SOME_FAILED if failed else 0


def _progress_bar(case: "Case", before: Callable[[], None], *, hidden: bool) -> "Progress":
    from tqdm import tqdm

    def wrap(tiles: "TileGrid") -> "Iterable[Box]":
        before()
        # tqdm's None means: only on a terminal.
        bar: Iterable[Box] = tqdm(tiles, desc=case.name, unit="tile", leave=False, disable=True if hidden else None)
        return bar

    return wrap


def _tell(record: "CaseRecord", args: argparse.Namespace) -> None:
    if record.status != "done" or not args.quiet:
        _say(record.line)
    if args.verbose:
        _say("  " + ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in record.timings_s.items()))
        for lesion in record.lesions or []:
            _say(f"  lesion of label {lesion.label}: {lesion.volume_ml:.3f} ml about voxel {lesion.centre} (z, y, x)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Terminated(BaseException):
    """SIGTERM arrived."""


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise _Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return run(args)
    except FlareError as error:
        _say(f"flare-infer: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("flare-infer: interrupted; finished cases are kept")
        return 130
    except _Terminated:
        _say("flare-infer: terminated; finished cases are kept")
        return 143


if __name__ == "__main__":
    sys.exit(main())
