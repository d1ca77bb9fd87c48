"""`flare-infer`: a CT, or a folder of them, in; masks and records out."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flare_runtime import __version__
from flare_runtime.command_line import positive
from flare_runtime.errors import DeviceError, FlareError
from flare_runtime.telemetry import silence_command

if TYPE_CHECKING:
    from flare_runtime.arrays import Box
    from flare_runtime.bundle import Bundle
    from flare_runtime.cases import Case
    from flare_runtime.inference import Progress
    from flare_runtime.record import CaseRecord
    from flare_runtime.segmenter import Segmenter
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
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda:N, or auto: a GPU where one can be used (default: %(default)s)",
    )
    add(
        "--backend",
        default="auto",
        metavar="NAME",
        help="openvino (CPU), onnxruntime, tensorrt (GPU) or auto (default: %(default)s)",
    )
    add(
        "--precision",
        default="auto",
        metavar="TYPE",
        help="auto, fp32, bf16 or int8 (CPU), or fp16 (default: the lower one where it was measured to agree)",
    )
    add(
        "--step",
        type=float,
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
    add("--any-intensity", action="store_true", help="take a CT that cannot be in Hounsfield units, with a remark")
    add("--threads", type=positive, metavar="N", help="for the network (default: all cores)")
    add(
        "--gpu-memory",
        type=positive,
        default=None,
        metavar="MIB",
        help="take at most so much of a GPU's memory (default: 4096)",
    )
    add("--max-voxels", type=positive, default=None, metavar="N", help="refuse larger inputs (default: 2e9)")
    add("--report", type=Path, metavar="FILE", help="write a JSON report of the whole run")
    add(
        "--keep-header-text",
        action="store_true",
        help="copy the free text of the images' headers, which may name the patient, into the masks",
    )
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="say nothing unless a case fails")
    verbosity.add_argument("--verbose", action="store_true", help="also print the time of every stage and every lesion")
    add("--version", action="version", version=f"flare-infer {__version__}")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Segment what the arguments name and return the exit code."""
    from flare_runtime.backends import choose, read_network
    from flare_runtime.bundle import Bundle, default_bundle
    from flare_runtime.cases import find_cases
    from flare_runtime.memory_plan import DEFAULT_GPU_MEMORY_MIB
    from flare_runtime.record import write_report
    from flare_runtime.segmenter import Segmenter

    bundle = Bundle.open(args.model or default_bundle())
    options = {
        name: getattr(args, name)
        for name in ("device", "backend", "precision", "step", "tta", "crop", "any_intensity", "threads")
    }
    options |= {"gpu_memory_mib": args.gpu_memory or DEFAULT_GPU_MEMORY_MIB, "wait": False}
    choice = choose(bundle, args.device, args.backend, args.precision)
    on_gpu = choice.device != "cpu"
    if on_gpu:
        read_network(bundle, choice)  # what is wrong with the bundle is said before anything is begun
    segmenter = None if on_gpu else Segmenter.load(bundle, **options)
    cases = find_cases(args.input, args.output, len(bundle.manifest.channels))
    if args.report:
        _check_report(args.report, cases)
    records: list[CaseRecord] = []

    def results() -> Iterator["CaseRecord"]:
        if on_gpu:
            try:
                yield from _on_gpu(bundle, options, cases, args)
                return
            except DeviceError as error:
                if args.device != "auto" or records:
                    raise
                _say(f"flare-infer: {error}; going on on the CPU")
        on_cpu = segmenter or Segmenter.load(bundle, **{**options, "device": "cpu"})
        yield from _segment(on_cpu, cases, args, heading=True)

    try:
        for record in results():
            records.append(record)
            _tell(record, args)
    finally:
        if args.report:
            write_report(args.report, records, [case.name for case in cases])
    failed = sum(record.status != "done" for record in records)
    if failed:
        _say(f"{failed} of {len(records)} case(s) not done")
    return _SOME_FAILED if failed else 0


def _on_gpu(
    bundle: "Bundle", options: dict[str, Any], cases: Sequence["Case"], args: argparse.Namespace
) -> Iterator["CaseRecord"]:
    from flare_runtime.segmenter import Segmenter
    from flare_runtime.supervision import supervise

    def work(some: Sequence["Case"]) -> Iterator["CaseRecord"]:
        # CUDA is first used in the worker: a process that has used it cannot be forked.
        return _segment(Segmenter.load(bundle, **options), some, args, heading=some[0] is cases[0])

    return supervise(work, cases)


def _segment(
    segmenter: "Segmenter", cases: Sequence["Case"], args: argparse.Namespace, *, heading: bool
) -> Iterator["CaseRecord"]:
    """Segment the cases, under a line that says what runs where if `heading`."""
    from flare_runtime.cohort import segment_cases
    from flare_runtime.nifti import DEFAULT_MAX_VOXELS

    @cache
    def announce() -> None:
        network = segmenter.network  # by now it is needed, and what is wrong with it has to be said
        if heading and not args.quiet:
            place = f"{network.device} ({network.backend}, {network.precision})"
            _say(f"{segmenter.bundle.manifest.name} on {place}, {len(cases)} case(s)")

    results = segment_cases(
        segmenter,
        cases,
        max_voxels=args.max_voxels or DEFAULT_MAX_VOXELS,
        keep_header_text=args.keep_header_text,
        progress=lambda case: _progress_bar(case, announce, hidden=args.quiet),
    )
    for record in results:
        announce()
        yield record


def _check_report(report: Path, cases: Sequence["Case"]) -> None:
    from flare_runtime.errors import UsageError
    from flare_runtime.output import check_folder
    from flare_runtime.record import is_report
    from flare_runtime.target import check_targets

    results = {path.name for case in cases for path in (case.mask, case.record, case.stale)}
    if report.name in results and report.parent.resolve() == cases[0].mask.parent.resolve():
        raise UsageError("the report would replace a result")
    check_targets([report], [image for case in cases for image in case.images.values()], over=is_report)
    check_folder(report.parent)


def _progress_bar(case: "Case", before: Callable[[], None], *, hidden: bool) -> "Progress":
    def wrap(tiles: "TileGrid") -> "Iterable[Box]":
        before()
        if hidden or not sys.stderr.isatty():
            return tiles
        from tqdm import tqdm

        bar: Iterable[Box] = tqdm(tiles, desc=case.name, unit="tile", leave=False)
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
    silence_command()
    level = logging.INFO if args.verbose else logging.ERROR if args.quiet else logging.WARNING
    logging.basicConfig(format="%(message)s")
    logging.getLogger("flare_runtime").setLevel(level)
    signal.signal(signal.SIGTERM, _terminate)
    # OpenVINO would import its model converter, which takes as long as the rest of it and is not needed here.
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
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
