"""The classes that are scored, by the names that a dataset.json of nnU-Net or a bundle gives them."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare_eval.results import LabelClass
from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle
from flare_runtime.model.manifest import Manifest, decode_manifest

DATASET_NAME = "dataset.json"
_BACKGROUND, _IGNORE = "background", "ignore"
_EXPECTED = 'nnU-Net 2 has "labels": {"background": 0, NAME: VALUE or [VALUES], ...}, values from 0 to 255'


@dataclass(frozen=True)
class LabelSet:
    """What is scored.

    Attributes:
        classes: the structures, in nnU-Net's order.
        ignore: the reference's value whose voxels count nowhere.
    """

    classes: tuple[LabelClass, ...]
    ignore: int | None = None


ONE_LESION = LabelSet((LabelClass(name="Lesion", values=(1,), key="1"),))


def read_label_set(path: Path) -> LabelSet:
    """Read the classes of a dataset.json, a manifest.json, or a folder or bundle that holds one.

    Raises:
        UsageError: where it is none of them, or names no class.
        BundleError: where a bundle or manifest is not sound.
    """
    if path.is_dir():
        if (path / DATASET_NAME).is_file() and not (path / MANIFEST_NAME).is_file():
            return read_label_set(path / DATASET_NAME)
        return _of_manifest(Bundle.open(path).manifest)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; give dataset.json, a bundle or its {MANIFEST_NAME}")
    if zipfile.is_zipfile(path):
        return _of_manifest(Bundle.open(path).manifest)
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is neither JSON nor a bundle; give dataset.json or a bundle") from error
    if isinstance(content, dict) and "schema_version" in content:
        return _of_manifest(decode_manifest(data, path.name))
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        raise UsageError(f"{path}: names no labels; {_EXPECTED}")
    return _of_dataset(labels, path)


def _of_manifest(manifest: Manifest) -> LabelSet:
    regions = manifest.regions_class_order is not None
    classes = [
        _label_class(label.name, label.values if len(label.values) > 1 else label.values[0], regions)
        for label in manifest.labels
    ]
    return LabelSet(tuple(classes))


def _of_dataset(labels: dict[str, Any], path: Path) -> LabelSet:
    """Return what nnU-Net scores: regions in their order where there are any, else the labels by value."""
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if not values or any(type(one) is not int or not 0 <= one <= 255 for one in values):
            raise UsageError(f"{path}: the label {visible(name)!r} has the value {visible(str(value))}; {_EXPECTED}")
    ignore = labels.get(_IGNORE)
    if isinstance(ignore, list):
        raise UsageError(f"{path}: the ignore label is one value, not {ignore}")
    regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
    named = {name: value for name, value in labels.items() if name != _IGNORE and value not in (0, [0])}
    classes = [_label_class(name, value, regions) for name, value in named.items()]
    if not regions:
        classes.sort(key=lambda label: label.values)
    if not classes:
        raise UsageError(f"{path}: names no label beside the {_BACKGROUND}; {_EXPECTED}")
    return LabelSet(tuple(classes), ignore)


def _label_class(name: str, value: Any, regions: bool) -> LabelClass:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    key = str(values) if regions and isinstance(value, list | tuple) else str(values[0])
    return LabelClass(name=visible(name), values=values, key=key)
