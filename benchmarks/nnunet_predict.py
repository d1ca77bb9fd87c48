"""`nnUNetv2_predict --disable_tta` on one folder, which also prints the seconds inside the network.

usage: python -m benchmarks.nnunet_predict MODEL_FOLDER FOLD INPUT_FOLDER OUTPUT_FOLDER [cpu|cuda:N]
"""

import argparse
import time
from collections.abc import Sequence


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "fold", "source", "target"):
        parser.add_argument(name)
    parser.add_argument("device", nargs="?", default="cpu")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Predict, and print the seconds inside the network and the number of tiles."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    device = torch.device(args.device)
    seconds, tiles = 0.0, 0
    predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(args.model, [args.fold], "checkpoint_final.pth")
    forward = predictor.network.forward

    def timed(batch: torch.Tensor) -> torch.Tensor:
        nonlocal seconds, tiles
        started = time.perf_counter()
        logits: torch.Tensor = forward(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds += time.perf_counter() - started
        tiles += 1
        return logits

    predictor.network.forward = timed  # type: ignore[method-assign]
    # One worker for reading and one for writing: the least memory that the command can be run with.
    predictor.predict_from_files(
        args.source, args.target, num_processes_preprocessing=1, num_processes_segmentation_export=1
    )
    print(f"\nnetwork_s={seconds:.3f} tiles={tiles}")


if __name__ == "__main__":
    run(parse_args())
