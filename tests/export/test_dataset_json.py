"""Channels and labels of dataset.json: those that nnU-Net takes, and a line for whatever it does not."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_export.errors import ModelError
from flare_export.source.dataset import channel_names, labels

CHANNELS = 'a name for each channel, in the order of the files, such as {"0": "CT", "1": "PET"}'


@pytest.mark.parametrize("key", ["channel_names", "modality"])
@pytest.mark.parametrize("keys", [("0", "1", "2"), ("1", "2", "3"), ("0", "5", "3"), ("CT", "PET", "T1")])
def test_the_order_that_channels_are_written_in_counts(key: str, keys: Sequence[str]) -> None:
    assert channel_names({key: dict(zip(keys, ("CT", "PET", "T1"), strict=True))}) == ["CT", "PET", "T1"]


def test_what_is_there_is_said_beside_what_nnunet_expects() -> None:
    wrong: dict[str, dict[str, Any]] = {
        "there are no channel_names; nnU-Net expects " + CHANNELS: {},
        f'channel_names is ["CT"]; nnU-Net expects {CHANNELS}': {"channel_names": ["CT"]},
        f'modality is {{"0": null}}; nnU-Net expects {CHANNELS}': {"modality": {"0": None}},
        'channel_names is {"0": "CT"} and modality {"0": "CT", "1": "PET"}; nnU-Net expects as many of the one as of '
        "the other, or channel_names alone": {"channel_names": {"0": "CT"}, "modality": {"0": "CT", "1": "PET"}},
    }
    for text, dataset in wrong.items():
        with pytest.raises(ModelError) as error:
            channel_names(dataset)
        assert str(error.value) == f"dataset.json: {text}"


@pytest.mark.parametrize(
    ("named", "order", "text"),
    [
        (
            {"0": "background", "1": "liver", "2": "tumour"},
            None,
            'labels is {"0": "background", "1": "liver", "2": "tumour"}, a name for each value, as nnU-Net 1 wrote it; '
            'nnU-Net expects a value for each name: {"background": 0, "liver": 1, "tumour": 2}',
        ),
        (
            {"background": 0, "liver": 1, "tumour": 3},
            None,
            "the labels have the values [0, 1, 3]; nnU-Net expects 0, 1, 2, ...",
        ),
        (
            {"background": 0, "whole": [1, 2], "core": 2},
            None,
            'regions_class_order is null; nnU-Net expects a list of 2 values, those that the regions "whole", "core" '
            "write",
        ),
        (
            {"background": 0, "ignore": 1, "liver": 2},
            None,
            "the label ignore is 1; nnU-Net expects 3, the value after the highest of the others",
        ),
        ({"background": 1, "liver": 2}, None, "the background is 1; nnU-Net expects 0"),
        (
            {"background": 0, "liver": "one"},
            None,
            'the label "liver" is "one"; nnU-Net expects a whole number of 0 to 255, or for a region a list of them',
        ),
    ],
)
def test_labels_that_nnunet_does_not_take_are_refused(named: Any, order: Any, text: str) -> None:
    with pytest.raises(ModelError) as error:
        labels({"labels": named, "regions_class_order": order})
    assert str(error.value) == f"dataset.json: {text}"


_value = st.integers(0, 3)
_labels = st.dictionaries(
    st.sampled_from(["background", "ignore", "liver", "tumour", "vessel"]),
    st.one_of(_value, _value, _value, st.lists(_value, min_size=1, max_size=3)),
)


@given(named=st.one_of(_labels, _labels.map(lambda named: {"background": 0, **named})), extra=st.integers(-1, 1))
@settings(deadline=None, max_examples=300)
def test_labels_are_taken_as_nnunet_takes_them(named: dict[str, Any], extra: int) -> None:
    handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    order = list(range(1, len(named.keys() - {"background", "ignore"}) + 1 + extra))
    try:
        expected = handling.LabelManager(named, order)
        heads = expected.num_segmentation_heads
    except Exception:  # it has no errors of its own
        with pytest.raises(ModelError):
            labels({"labels": named, "regions_class_order": order})
        return
    used = expected.all_labels
    if len(used) < 2 or (not expected.has_regions and used != list(range(len(used)))):
        with pytest.raises(ModelError):
            labels({"labels": named, "regions_class_order": order})
        return
    structures, regions = labels({"labels": named, "regions_class_order": order})
    assert regions == (tuple(order) if expected.has_regions else None)
    assert len(structures) + (regions is None) == heads
    values = [structure.values if len(structure.values) > 1 else structure.values[0] for structure in structures]
    foreground = expected.foreground_regions if expected.has_regions else expected.foreground_labels
    plain = [value[0] if isinstance(value, tuple) and len(value) == 1 else value for value in foreground]
    assert values == plain if expected.has_regions else sorted(values) == sorted(plain)
