"""nnU-Net's preprocessing of a data set for a plan, done once and done again where anything it depends on changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare_export.plans import read_json
from flare_runtime.errors import UsageError
from flare_runtime.output import replacing
from flare_train.nnunet_folders import DatasetFolders
from flare_train.plan import CONFIGURATION
from flare_train.processes import only_process

# Of a configuration, what its preprocessed data do not depend on.
_OF_TRAINING = ("architecture", "batch_size", "batch_dice")


def read_plans(dataset: DatasetFolders, name: str) -> dict[str, Any]:
    """Read the plans that `flare-train plan` wrote.

    Raises:
        UsageError: where there are none of this name.
    """
    file = dataset.preprocessed / f"{name}.json"
    if not file.is_file():
        raise UsageError(f"{file}: there is no such plan; write it with `flare-train plan`")
    return read_json(file)


def preprocess(dataset: DatasetFolders, plans_name: str, workers: int) -> None:
    """Preprocess every case of a raw data set, unless that was done and neither plan nor files have changed.

    Of several processes that need the same data one makes them and the others wait.

    Args:
        dataset: its folders.
        plans_name: of the plans that `flare-train plan` wrote.
        workers: processes.

    Raises:
        UsageError: where there are no such plans, or they are of before the data set's labels changed.
    """
    plans = read_plans(dataset, plans_name)
    given, planned = (read_json(folder / "dataset.json")["labels"] for folder in (dataset.raw, dataset.preprocessed))
    if given != planned:
        raise UsageError(f"{dataset.raw}: the labels are {given} and were {planned} for {plans_name}; plan again")
    configuration = plans["configurations"][CONFIGURATION]
    # Beside the folder of preprocessed data, which nnU-Net lists: a file in it would be taken for a case.
    stamp, lock = (dataset.preprocessed / f"{configuration['data_identifier']}.{end}" for end in ("done", "lock"))
    with only_process(lock, "", wait=True):
        state = _state(dataset.raw, plans, configuration)
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
            return
        from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

        stamp.unlink(missing_ok=True)
        preprocess_dataset(dataset.number, plans_name, (CONFIGURATION,), (workers,))
        with replacing(stamp) as target:
            target.write(state.encode())


def _state(raw: Path, plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    files = sorted(path for name in ("imagesTr", "labelsTr") for path in (raw / name).iterdir())
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest({key: value for key, value in configuration.items() if key not in _OF_TRAINING}, plans, facts)


def digest(configuration: Mapping[str, Any], plans: Mapping[str, Any], *more: Any) -> str:
    """Return the SHA-256 of a configuration, of the intensities that its plans normalise by, and of `more`."""
    content = [configuration, plans["foreground_intensity_properties_per_channel"], *more]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
