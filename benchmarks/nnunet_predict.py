"""`nnUNetv2_predict --disable_tta` on one folder, which also prints the seconds inside the network.

usage: python -m benchmarks.nnunet_predict MODEL_FOLDER FOLD INPUT_FOLDER OUTPUT_FOLDER [cpu|cuda:N]
"""

import sys
import time

if __name__ == "__main__":
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    model, fold, source, target, *rest = sys.argv[1:]
    device = torch.device(rest[0] if rest else "cpu")
    spent = [0.0, 0]
    predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(model, [fold], "checkpoint_final.pth")
    forward = predictor.network.forward

    def timed(tiles: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        logits: torch.Tensor = forward(tiles)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent[0] += time.perf_counter() - started
        spent[1] += 1
        return logits

    predictor.network.forward = timed  # type: ignore[method-assign]
    # One worker for reading and one for writing: the least memory that the command can be run with.
    predictor.predict_from_files(source, target, num_processes_preprocessing=1, num_processes_segmentation_export=1)
    print(f"\nnetwork_s={spent[0]:.3f} tiles={int(spent[1])}")
