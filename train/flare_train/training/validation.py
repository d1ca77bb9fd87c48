"""Full-volume validation of a checkpoint: nnU-Net predicts the scans, the challenge's rules score the masks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import fmean

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from flare_eval.accuracy.rules import TOLERANCE_MM
from flare_eval.accuracy.scores import Pair, evaluate
from flare_eval.results import CaseAccuracy, save
from flare_export.source.checkpoint import read_checkpoint
from flare_runtime.errors import UsageError
from flare_runtime.files.output import check_folder
from flare_runtime.imaging.file_names import mask_name
from flare_runtime.program.terminal import progress_bar
from flare_train.data.cases import TrainingCase
from flare_train.data.inspection import inspect_cases


def check_cases(cases: Sequence[TrainingCase], workers: int) -> None:
    """Read the cases and refuse those that cannot be validated on, before any training.

    Raises:
        UsageError: naming the first few; a label without a lesion is fine.
    """
    facts = inspect_cases(cases, min(workers, len(cases)))
    messages = [
        message
        for case in progress_bar(facts, "reading validation cases", "case", len(cases))
        for problem, message in zip(case.problems, case.messages, strict=True)
        if problem != "empty_label"
    ]
    if messages:
        raise UsageError(f"{len(messages)} problems of cases to validate on: {'; '.join(messages[:3])}")


def validate(
    model_folder: Path, fold: str, checkpoint: str, cases: Sequence[TrainingCase], output: Path, device: torch.device
) -> list[CaseAccuracy]:
    """Predict every case as `nnUNetv2_predict --disable_tta` does and score the masks.

    Masks and accuracy.json are written to `output`.

    Args:
        model_folder: nnU-Net's trained-model folder.
        fold: of it.
        checkpoint: the file name in the fold's folder.
        cases: with image and label.
        output: gets the masks.
        device: to predict on.

    Raises:
        ModelError: where the checkpoint must not be loaded.
    """
    check_folder(output)
    read_checkpoint(model_folder / f"fold_{fold}" / checkpoint)  # nnU-Net would run what is in it
    with quiet():
        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model_folder), (fold,), checkpoint)
    pairs = []
    for case in progress_bar(cases, "validating", "case"):
        with quiet():
            predictor.predict_from_files_sequential([[str(case.image)]], [str(output / case.stem)])
        pairs.append(Pair(case.stem, Path(str(case.label)), output / mask_name(case.stem)))
    # In this process: the workers of a pool would outlive its being killed.
    result = evaluate(checkpoint, pairs)
    save(result, output)
    return result.cases


def means(cases: Sequence[CaseAccuracy]) -> tuple[float, float]:
    """Return the mean DSC and NSD of the cases that could be scored; 0 where none could."""
    scored = [(case.dsc, case.nsd[f"{TOLERANCE_MM:g}"]) for case in cases if case.dsc is not None]
    if not scored:
        return 0.0, 0.0
    return round(fmean(dsc for dsc, _ in scored), 4), round(fmean(nsd for _, nsd in scored), 4)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what nnU-Net prints off the terminal."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
