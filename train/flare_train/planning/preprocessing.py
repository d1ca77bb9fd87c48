"""Runs nnU-Net's preprocessing of a data set for a plan, again only where something that it depends on changed."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flare_export.errors import ModelError
from flare_export.source.json_file import read_json
from flare_export.source.schema import Dataset, Plans, checked
from flare_runtime.errors import UsageError, first_line
from flare_runtime.files.output import replacing
from flare_runtime.model.manifest import Side, SpacingMm
from flare_train.data.nnunet_folders import DatasetFolders
from flare_train.planning.plan import CONFIGURATION
from flare_train.processes import only_process

# What nnU-Net writes of a case beside its voxels.
_OF_PROPERTIES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
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


class _Trained(msgspec.Struct):
    """What is used of a configuration before nnU-Net takes over."""

    batch_size: Annotated[int, Meta(ge=1, le=1 << 16)]
    data_identifier: Annotated[str, Meta(pattern=r"^[^/\x00-\x1f]+$")]
    patch_size: tuple[Side, Side, Side]
    spacing: tuple[SpacingMm, SpacingMm, SpacingMm]


def planned(plans: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of plans that is trained.

    Raises:
        ModelError: where the plans lack something that is used of them, or it is of a wrong type or size.
    """
    whole = checked(plans, Plans, "the plans")
    if whole.foreground_intensity_properties_per_channel is None:
        raise ModelError("the plans have no foreground_intensity_properties_per_channel")
    configuration = whole.configurations.get(CONFIGURATION)
    checked(configuration, _Trained, f"configuration {CONFIGURATION!r} of the plans")
    return configuration or {}


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
    labels, planned_labels = (_labels(folder / "dataset.json") for folder in (dataset.raw, dataset.preprocessed))
    if labels != planned_labels:
        raise UsageError(
            f"{dataset.raw}: the labels are {labels} and were {planned_labels} for {plans_name}; plan again"
        )
    configuration = planned(plans)
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


def _labels(file: Path) -> Mapping[str, Any]:
    return checked(read_json(file), Dataset, str(file), strict=False).labels


def check_preprocessed(dataset: DatasetFolders, plans: Mapping[str, Any]) -> None:
    """Read what nnU-Net wrote of every case beside its voxels, since nnU-Net runs what such a file holds.

    Raises:
        ModelError: naming a file that holds anything but numbers, and what.
    """
    for path in sorted((dataset.preprocessed / planned(plans)["data_identifier"]).glob("*.pkl")):
        try:
            with path.open("rb") as file:
                _Properties(file).load()
        except Exception as error:  # the unpickler raises whatever a damaged file leads it to
            raise ModelError(f"{path}: cannot be used ({first_line(error)}); remove the folder it is in") from error


class _Properties(pickle.Unpickler):
    """Reads numbers, texts, NumPy arrays and containers of them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) not in _OF_PROPERTIES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which nnU-Net does not write")
        return super().find_class(module, name)


def _state(raw: Path, plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    files = sorted(path for name in ("imagesTr", "labelsTr") for path in (raw / name).iterdir())
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return digest({key: value for key, value in configuration.items() if key not in _OF_TRAINING}, plans, facts)


def digest(configuration: Mapping[str, Any], plans: Mapping[str, Any], *more: Any) -> str:
    """Return the SHA-256 of a configuration, of the intensities that its plans normalise by, and of `more`."""
    content = [configuration, plans["foreground_intensity_properties_per_channel"], *more]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
