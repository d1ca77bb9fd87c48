"""`flare-export`: a model folder becomes a bundle that agrees with it; a bundle gets TensorRT engines and int8."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flare_runtime.files.naming import visible
from flare_runtime.model.manifest import MAX_CAUTION
from flare_runtime.program.command_line import exit_code_of, new_parser, path_of, positive
from flare_runtime.program.terminal import open_streams, print_line

if TYPE_CHECKING:
    from flare_export.source.model_folder import ModelFolder
    from flare_runtime.model.manifest import Manifest

# What a command line may begin with; otherwise it is that of a model folder that becomes a bundle.
ENGINES, INT8, TRITON = "trt", "int8", "triton"
BUILDERS = ("tensorrt", "rtx")
OTHER_COMMANDS = """\
flare-export trt BUNDLE builds TensorRT engines of a bundle instead, flare-export int8 BUNDLE adds to it what it needs
to run in 8-bit integers, and flare-export triton BUNDLE makes a model repository for Triton of it; see their --help.

"""
EXIT_CODES = """\
exit codes: 0 done; 1 internal error; 2 usage; 3 the model is refused: it cannot be exported, or the result does not
            agree with it; 4 a case cannot be read; 5 device; 6 output; 7 bundle; 130 interrupted
"""


def _one_line(text: str) -> str:
    if not 0 < len(text) <= MAX_CAUTION or visible(text) != text:
        raise argparse.ArgumentTypeError(f"give one line of at most {MAX_CAUTION} characters")
    return text


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = "".join(words[:1])
    if command not in _PARSERS:  # a model folder of that name is ./trt
        return _bundle_parser().parse_args(words, argparse.Namespace(command="bundle"))
    return _PARSERS[command]().parse_args(words[1:], argparse.Namespace(command=command))


def _bundle_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "flare-export",
        "Turn an nnU-Net v2 trained-model folder into a bundle for flare-infer, and check that it agrees.",
        OTHER_COMMANDS + EXIT_CODES,
    )
    add = parser.add_argument
    add("model", type=path_of, metavar="MODEL_FOLDER", help="holds plans.json, dataset.json and fold_*/")
    add("-o", "--output", type=path_of, required=True, metavar="BUNDLE", help="the folder to write")
    add("--folds", "--fold", nargs="+", metavar="FOLD", help="0 1 ... or all (default: every numbered fold)")
    _add_previous_stage(parser)
    add("--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="default: %(default)s")
    _add_verify(parser, "NIfTI images to compare with nnU-Net's own predictor, voxel by voxel (needs nnunetv2)")
    add(
        "--no-postprocessing",
        dest="postprocessing",
        action="store_false",
        help="leave out what nnU-Net found to make the masks better (postprocessing.json)",
    )
    add(
        "--trust-plans",
        action="store_true",
        help="take the network of a trainer that is none of nnU-Net's own and cannot be had for that of plans.json",
    )
    add("--name", type=_one_line, help="the model's name (default: data set and configuration)")
    add("--licence", type=_one_line, default="unspecified", help="of the weights")
    add("--model-card", type=path_of, metavar="FILE", help="Markdown that goes into the bundle")
    add("--caution", type=_one_line, metavar="TEXT", help="what flare-infer tells whoever uses the model")
    add(
        "--orientation",
        metavar="CODE",
        help="where the axes of the training's scans pointed, as they were stored, such as LPS; flare-infer then "
        "remarks upon others",
    )
    add(
        "--force",
        action="store_true",
        help="replace a bundle although the new one lacks its model card, what int8 needs or how it agrees on cases",
    )
    return parser


def _add_previous_stage(parser: argparse.ArgumentParser) -> None:
    meaning = "of a cascade the model whose masks it sees (default: beside MODEL_FOLDER, as nnU-Net names it)"
    parser.add_argument("--previous-stage", type=path_of, metavar="FOLDER", help=meaning)


def _engine_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        f"flare-export {ENGINES}",
        "Build this machine's TensorRT engines of a bundle, one per fold and batch, compare each with ONNX Runtime in "
        "float32, and keep those that agree where flare-infer finds them. With --builder rtx no GPU is needed: each "
        "engine is inspected, and flare-infer compares it with float32 at its first use on a machine.",
        EXIT_CODES,
    )
    add = parser.add_argument
    add("bundle", type=path_of, metavar="BUNDLE", help="a folder or zip made by flare-export")
    _add_rtx(parser)
    add("--batch", nargs="+", type=positive, default=[1], metavar="N", help="tiles at once (default: 1)")
    _add_verify(parser, "NIfTI images (default: synthetic patches)")
    add("--workspace-mib", type=positive, metavar="N", help="scratch memory of a layer (default: TensorRT's own bound)")
    add(
        "--version-compatible",
        action="store_true",
        help="also for later TensorRT of this major version and for its lean runtime; may be slower",
    )
    add(
        "--timing-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep TensorRT's timings of this GPU, so that later builds are faster",
    )
    add("--rebuild", action="store_true", help="build anew what is there already")
    add("--device", metavar="cuda:N", help="the GPU (default: cuda:0)")
    return parser


def _add_rtx(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--builder", choices=BUILDERS, default="tensorrt", help="TensorRT, or TensorRT for RTX (default: %(default)s)")
    add(
        "--target",
        nargs="+",
        type=_target,
        metavar="SM",
        help="the GPUs to build for, with --builder rtx: sm75, sm86, sm89, sm120 (default: the GPU that is here)",
    )
    add(
        "-o",
        "--output",
        type=path_of,
        metavar="FOLDER",
        help="with --builder rtx, a folder to write the engines to, for other machines, in place of the cache",
    )


def _target(text: str) -> str:
    from flare_runtime.backends.tensorrt.targets import why_not

    if reason := why_not(text):
        raise argparse.ArgumentTypeError(reason)
    return text


def _int8_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        f"flare-export {INT8}",
        "Add to a bundle what flare-infer --precision int8 needs, taken from what the network makes of some cases, and "
        "compare the result with float32 on others.",
        EXIT_CODES,
    )
    add = parser.add_argument
    add("bundle", type=path_of, metavar="BUNDLE", help="a folder made by flare-export")
    add("--calibrate", nargs="+", type=path_of, required=True, metavar="CASE", help="NIfTI images of the model's kind")
    _add_verify(parser, "NIfTI images to compare on; best others")
    add("--force", action="store_true", help="without --verify, drop what an earlier --verify of int8 measured")
    return parser


def _triton_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        f"flare-export {TRITON}",
        "Write a model repository for NVIDIA's Triton Inference Server: the whole pipeline, scan in and mask out, and "
        "the bare networks.",
        EXIT_CODES,
    )
    add = parser.add_argument
    add("bundle", type=path_of, metavar="BUNDLE", help="a folder made by flare-export")
    add("-o", "--output", type=path_of, required=True, metavar="REPOSITORY", help="the folder to write")
    return parser


def _add_verify(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--verify", nargs="+", type=path_of, default=[], metavar="CASE", help=meaning)


_PARSERS = {ENGINES: _engine_parser, INT8: _int8_parser, TRITON: _triton_parser}


def run_bundle(args: argparse.Namespace) -> int:
    """Export, verify and print what agrees how well."""
    from flare_export.bundle.conversion import Naming, export_bundle
    from flare_export.parity.case_files import channel_files
    from flare_export.source.model_folder import ModelFolder
    from flare_export.source.postprocessing import FoundPostprocessing, find_postprocessing

    _check_usage(args)
    folder = ModelFolder.read(
        args.model, args.folds, args.checkpoint, args.previous_stage, trust_plans=args.trust_plans
    )
    for stage in folder.stages:
        print_line(_folds_line(stage, args.checkpoint))
    naming = Naming(args.name, args.licence, args.model_card, args.caution, args.orientation)
    verify = channel_files(args.verify, folder.image_channels)
    folds = [checkpoint.fold for checkpoint in folder.checkpoints]
    found = find_postprocessing(folder.path, folds) if args.postprocessing else FoundPostprocessing()
    if found.line:
        print_line(found.line)
    bundle, _ = export_bundle(
        folder, args.output, naming, verify, print_line, postprocessing=found.steps, force=args.force
    )
    for part in bundle.stages:
        _print_network(args.output, part.manifest)
    return 0


def _print_network(output: Path, manifest: "Manifest") -> None:
    network = manifest.network
    print_line(f"{output}: {manifest.name}, {network.architecture} of {network.stages} stages,")
    print_line(f"  {network.parameters:,} parameters, {network.gmac:g} GMAC a patch")
    for record in manifest.parity:
        if record.scope == "patch":
            print_line(
                f"  {record.backend} {record.precision} against {record.reference} on {record.subject}: logits within "
                f"{record.max_logit_difference:.2g}, {record.voxel_agreement:.4%} of voxels equal, Dice "
                f"{record.dice:.6f}"
            )


def _folds_line(folder: "ModelFolder", checkpoint: str) -> str:
    """Return which configuration and folds become the bundle, and which others are there."""
    taken = [one.fold for one in folder.checkpoints]
    others = {visible(path.name.removeprefix("fold_")) for path in folder.path.glob("fold_*")} - set(taken)
    left_out = f"; left out: {', '.join(sorted(others))}" if others else ""
    configuration = visible(folder.checkpoints[0].configuration)
    return f"{folder.path}: {configuration}, {checkpoint} of fold {', '.join(taken)}{left_out}"


def _check_usage(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before any work.

    Raises:
        UsageError: naming it.
    """
    from flare_export.source.model_folder import is_fold
    from flare_runtime.errors import UsageError
    from flare_runtime.imaging.orientation import check_orientation

    if args.orientation is not None:
        check_orientation("--orientation", args.orientation)
    if not args.model.is_dir():
        raise UsageError(f"{args.model}: is no folder; give an nnU-Net trained-model folder, with plans.json in it")
    folds = args.folds or []
    if odd := [fold for fold in folds if not is_fold(fold)]:
        raise UsageError(f"--folds {odd[0]}: give numbers, or all")
    if twice := [fold for fold in folds if folds.count(fold) > 1]:
        raise UsageError(f"--folds {twice[0]}: is given twice")
    if Path(args.checkpoint).name != args.checkpoint:
        raise UsageError(f"--checkpoint {args.checkpoint}: give the name of a file in the folds' folders")
    if args.previous_stage is not None and not args.previous_stage.is_dir():
        raise UsageError(f"--previous-stage {args.previous_stage}: is no folder")
    if args.model_card is not None and not args.model_card.is_file():
        raise UsageError(f"--model-card {args.model_card}: there is no such file")


def run_engines(args: argparse.Namespace) -> int:
    """Build a bundle's engines, check and keep them, and print what is known of them."""
    from flare_export.engine import command
    from flare_runtime.model.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    command.check_usage(args)
    run = command.export_portable if args.builder == "rtx" else command.export_verified
    for stage in bundle.stages:
        run(stage, args)
    return 0


def run_int8(args: argparse.Namespace) -> int:
    """Calibrate, verify and keep a bundle's int8 ranges, and print how well they agree."""
    from flare_export.bundle.int8 import add_int8
    from flare_export.parity.case_files import channel_files
    from flare_runtime.backends.selection import MIN_AUTO_DICE, agrees
    from flare_runtime.model.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    channels = len(bundle.manifest.channels)
    calibrate, verify = (channel_files(paths, channels) for paths in (args.calibrate, args.verify))
    done = add_int8(bundle, calibrate, verify, print_line, force=args.force)
    taken = "does" if agrees(done, "openvino", INT8) else "does not"
    rule = f"a Dice of {MIN_AUTO_DICE} on every case of --verify that has any foreground"
    print_line(f"{args.bundle}: --precision int8 can be had; auto takes it with {rule}: it {taken}")
    return 0


def run_triton(args: argparse.Namespace) -> int:
    """Write a bundle's model repository, and print which models it holds."""
    from flare_export.triton.repository import export_repository
    from flare_runtime.model.bundle import Bundle

    models = export_repository(Bundle.open(args.bundle), args.output)
    print_line(f"{args.output}: {', '.join(models)}")
    return 0


_RUNS = {"bundle": run_bundle, ENGINES: run_engines, INT8: run_int8, TRITON: run_triton}


def run(args: argparse.Namespace) -> int:
    """Run a command and return its exit code."""
    return _RUNS[args.command](args)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command and return its exit code."""
    open_streams()
    args = parse_args(argv)
    program = "flare-export" if args.command == "bundle" else f"flare-export {args.command}"
    extra = {"tensorrt": "tensorrt", "rtx": "rtx"}.get(getattr(args, "builder", ""), "export")
    return exit_code_of(program, lambda: run(args), extra)


if __name__ == "__main__":
    sys.exit(main())
