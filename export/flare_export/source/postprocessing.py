"""What nnU-Net found to make a model's masks better, read from the JSON beside its pickle, which is never unpickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flare_export.errors import ModelError
from flare_export.source.json_file import read_json, shown
from flare_runtime.files.naming import visible
from flare_runtime.model.manifest import PostprocessingStep

_NAME = "postprocessing"
_CROSS_VALIDATION = "crossval_results_folds_"
_FUNCTION = "remove_all_but_largest_component_from_segmentation"
_LEFT_OUT = "--no-postprocessing exports the model without it"


@dataclass(frozen=True)
class FoundPostprocessing:
    """What was found for some folds.

    Attributes:
        steps: in their order.
        line: what a person is told of them, or of what was left out; empty where nothing was found.
    """

    steps: tuple[PostprocessingStep, ...] = ()
    line: str = ""


def find_postprocessing(folder: Path, folds: Sequence[str]) -> FoundPostprocessing:
    """Read what `nnUNetv2_find_best_configuration` or `nnUNetv2_determine_postprocessing` wrote for these folds.

    They write it beside the predictions that they looked at: those of a cross-validation, or of one fold.

    Raises:
        ModelError: where it cannot be read, or says something else than to keep largest components.
    """
    own = [folder, *_of_folds(folder, folds)]
    places = [place for place in own if any((place / f"{_NAME}.{end}").exists() for end in ("json", "pkl"))]
    if not places:
        patterns = (f"{_CROSS_VALIDATION}*/{_NAME}.*", f"fold_*/{_NAME}.*", f"fold_*/validation/{_NAME}.*")
        others = sorted(str(path.parent.relative_to(folder)) for pattern in patterns for path in folder.glob(pattern))
        told = f"{_NAME}: none, as {visible(others[0])} is of other folds" if others else ""
        return FoundPostprocessing(line=told)
    file = places[0] / f"{_NAME}.json"
    if not file.exists():
        return FoundPostprocessing(line=f"{_NAME}: none, as there is {_NAME}.pkl without {file}; no pickle is read")
    steps = _steps(file, read_json(file))
    told = "; ".join(f"largest component of {', '.join(map(str, step.keep_largest))}" for step in steps)
    return FoundPostprocessing(steps, f"{_NAME}: {told or 'none'}, as {file} says")


def _of_folds(folder: Path, folds: Sequence[str]) -> list[Path]:
    wanted = sorted(folds)
    places = [
        path
        for path in sorted(folder.glob(f"{_CROSS_VALIDATION}*"))
        if sorted(path.name.removeprefix(_CROSS_VALIDATION).split("_")) == wanted
    ]
    if len(folds) == 1:
        places += [folder / f"fold_{folds[0]}" / "validation", folder / f"fold_{folds[0]}"]
    return places


def _steps(file: Path, content: Mapping[str, Any]) -> tuple[PostprocessingStep, ...]:
    functions, arguments = (content.get(f"{_NAME}_{what}") for what in ("fns", "kwargs"))
    if not (isinstance(functions, list) and isinstance(arguments, list) and len(functions) == len(arguments)):
        there = f"{_NAME}_fns is {shown(functions)} and {_NAME}_kwargs {shown(arguments)}"
        raise ModelError(f"{file}: {there}; nnU-Net writes two lists of one length; {_LEFT_OUT}")
    return tuple(_step(file, *step) for step in zip(functions, arguments, strict=True))


def _step(file: Path, function: object, arguments: object) -> PostprocessingStep:
    if function != _FUNCTION:
        raise ModelError(f"{file}: the function {shown(function)} is not supported; only {_FUNCTION}; {_LEFT_OUT}")
    try:
        if not isinstance(arguments, dict) or arguments.keys() - {"background_label"} != {"labels_or_regions"}:
            raise ValueError
        # JSON makes lists of regions, and of either it is the voxels with any of the values.
        values = sorted(set(_flat(arguments["labels_or_regions"])))
        if arguments.get("background_label", 0) != 0:
            raise ValueError
        return msgspec.convert({"keep_largest": values}, PostprocessingStep)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{file}: the arguments {shown(arguments)} are not supported; nnU-Net writes "
            f'{{"labels_or_regions": ...}} with labels of 1 to 255; {_LEFT_OUT}'
        ) from error


def _flat(labels: object) -> list[Any]:
    return [value for part in labels for value in _flat(part)] if isinstance(labels, list) else [labels]
