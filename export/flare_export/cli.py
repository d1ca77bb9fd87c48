"""`flare-export`: an nnU-Net trained-model folder becomes a bundle that agrees with it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flare_runtime.command_line import exit_code_of


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="flare-export",
        description="Turn an nnU-Net v2 trained-model folder into a bundle for flare-infer, and check that it agrees.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help="holds plans.json, dataset.json and fold_*/")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="the folder to write")
    parser.add_argument("--fold", nargs="+", metavar="FOLD", help="0 1 ... or all (default: every numbered fold)")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--verify",
        nargs="+",
        type=Path,
        default=[],
        metavar="CASE",
        help="NIfTI images to compare with nnU-Net's own predictor, voxel by voxel (needs nnunetv2)",
    )
    parser.add_argument("--name", help="the model's name (default: data set and configuration)")
    parser.add_argument("--licence", default="unspecified", help="of the weights")
    parser.add_argument("--model-card", type=Path, metavar="FILE", help="Markdown that goes into the bundle")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Export, verify and print what agrees how well."""
    from flare_export.case_parity import HEADING
    from flare_export.conversion import Naming, channel_files, export_bundle
    from flare_export.model_folder import ModelFolder

    folder = ModelFolder.read(args.model, args.fold, args.checkpoint)
    naming = Naming(args.name, args.licence, args.model_card)
    verify = channel_files(args.verify, folder.inputs)
    if verify:
        print("Against nnU-Net's own predictor (no TTA, step 0.5):\n" + HEADING)
    bundle, cases = export_bundle(folder, args.output, naming, verify, lambda case: print(case.row, flush=True))
    manifest = bundle.manifest
    network = manifest.network
    print(f"{args.output}: {manifest.name}, {network.architecture} of {network.stages} stages,")
    print(f"  {network.parameters:,} parameters, {network.gmac:g} GMAC a patch")
    for record in manifest.parity[: len(manifest.parity) - len(cases)]:
        print(
            f"  {record.backend} {record.precision} against {record.reference} on {record.subject}: logits within "
            f"{record.max_logit_difference:.2g}, {record.voxel_agreement:.4%} of voxels equal, Dice {record.dice:.6f}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse_args(argv)

    def work() -> int:
        run(args)
        return 0

    return exit_code_of("flare-export", work, "export")


if __name__ == "__main__":
    sys.exit(main())
