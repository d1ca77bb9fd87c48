"""nnU-Net's `dataset.json`: the channels and labels of a model, by nnU-Net's own rules."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flare_export.errors import ModelError
from flare_export.source.json_file import shown
from flare_runtime.files.naming import visible
from flare_runtime.model.manifest import Label, LabelValue

_FILE = "dataset.json"
_BACKGROUND, _IGNORE = "background", "ignore"
_CHANNELS = 'a name for each channel, in the order of the files, such as {"0": "CT", "1": "PET"}'
_LABELS = 'a value for each name, and a background, such as {"background": 0, "tumour": 1}'
_VALUE = "a whole number of 0 to 255, or for a region a list of them"
_Values = tuple[LabelValue, ...]


def channel_names(dataset: Mapping[str, Any]) -> list[str]:
    """Return what dataset.json calls the input channels, in the order they are written in.

    nnU-Net does not look at their keys. It counts the channels of `modality`, nnU-Net 1's word, where that is there.

    Raises:
        ModelError: saying what is there instead.
    """
    key = "channel_names" if dataset.get("channel_names") is not None else "modality"
    if key not in dataset:
        raise _wrong("there are no channel_names", _CHANNELS)
    names = dataset[key]
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise _wrong(f"{key} is {shown(names)}", _CHANNELS)
    others = dataset.get("modality")
    if isinstance(others, dict | list) and len(others) != len(names):
        there = f"channel_names is {shown(names)} and modality {shown(others)}"
        raise _wrong(there, "as many of the one as of the other, or channel_names alone")
    return list(names.values())


def labels(dataset: Mapping[str, Any]) -> tuple[tuple[Label, ...], tuple[int, ...] | None]:
    """Return the foreground labels, and the value each writes where they are regions, which may overlap.

    Names of one value are one label.

    Raises:
        ModelError: saying what is there instead of labels that nnU-Net takes.
    """
    named = _named_labels(dataset)
    values = {name: _values(name, value) for name, value in named.items() if name != _IGNORE}
    if isinstance(named[_BACKGROUND], list) or values[_BACKGROUND] != (0,):
        raise _wrong(f"the background is {shown(named[_BACKGROUND])}", "0")
    used = sorted({value for of_name in values.values() for value in of_name})
    _check_ignored(named.get(_IGNORE), used[-1])
    structures = {name: of_name for name, of_name in values.items() if any(of_name)}
    if not structures:
        raise _wrong(f"labels is {shown(named)}, the background alone", _LABELS)
    if any(len(of_name) > 1 for of_name in values.values()):
        regions = tuple(Label(name=visible(name), values=of_name) for name, of_name in structures.items())
        return regions, _class_order(dataset.get("regions_class_order"), regions)
    if used != list(range(len(used))):
        raise _wrong(f"the labels have the values {shown(used)}", "0, 1, 2, ...")
    names: dict[_Values, list[str]] = {}
    for name, of_name in structures.items():
        names.setdefault(of_name, []).append(visible(name))
    return tuple(Label(name=", ".join(of_value), values=value) for value, of_value in names.items()), None


def _named_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    named = dataset.get("labels")
    if named is None:
        raise _wrong("there are no labels", _LABELS)
    if not isinstance(named, dict):
        raise _wrong(f"labels is {shown(named)}", _LABELS)
    if _BACKGROUND in named:
        return named
    if _BACKGROUND in (name for name in named.values() if isinstance(name, str)):
        turned = {str(name): int(value[:9]) if value.isdecimal() else value for value, name in named.items()}
        there = f"labels is {shown(named)}, a name for each value, as nnU-Net 1 wrote it"
        raise _wrong(there, f"a value for each name: {shown(turned)}")
    raise _wrong(f"labels is {shown(named)}, without a background", _LABELS)


def _values(name: str, value: object) -> _Values:
    """Return the values of a label; nnU-Net takes numbers in quotes too."""
    try:
        many = value if isinstance(value, list) else [value]
        values: _Values = msgspec.convert(many, Annotated[_Values, Meta(min_length=1)], strict=False)
    except msgspec.ValidationError as error:
        raise _wrong(f"the label {shown(name)} is {shown(value)}", _VALUE) from error
    return values


def _check_ignored(value: object, highest: int) -> None:
    if value is not None and (not isinstance(value, int) or value != highest + 1):
        there = f"the label {_IGNORE} is {shown(value)}"
        raise _wrong(there, f"{highest + 1}, the value after the highest of the others")


def _class_order(order: object, regions: tuple[Label, ...]) -> tuple[int, ...]:
    try:
        values = msgspec.convert(order, _Values, strict=False)
    except msgspec.ValidationError:
        values = ()
    if len(values) != len(regions):
        names = ", ".join(shown(region.name) for region in regions)
        expected = f"a list of {len(regions)} values, those that the regions {names} write"
        raise _wrong(f"regions_class_order is {shown(order)}", expected)
    return values


def _wrong(there: str, expected: str) -> ModelError:
    return ModelError(f"{_FILE}: {there}; nnU-Net expects {expected}")
