"""The table of kinds of models, against nnU-Net's own predictor: a few rows by default, all where slow tests run."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_export.bundle.conversion import MAX_MARGIN_STEPS
from tests.conftest import AGREEMENT

pytest.importorskip("nnunetv2")

from benchmarks import parity


@pytest.mark.parametrize(
    "of", [pytest.param(of, id=of.name, marks=() if of.quick else pytest.mark.slow) for of in parity.ROWS]
)
def test_masks_are_those_of_nnunet(
    of: parity.Row, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    for result in parity.measure(of, tmp_path):
        record_property(AGREEMENT, f"{of.name:<50}{result.row.removeprefix(f'{result.case:<28}')}")
        share = result.agreement.foreground_voxels / np.prod(of.grid[0])
        assert 0.01 < share < 0.9, "the model must find something and not everything"
        assert result.agreement.voxel_agreement >= of.least, result.row
        assert result.agreement.dice >= parity.MIN_DICE, result.row


def test_the_table_has_its_forty_rows() -> None:
    assert len({of.name for of in parity.ROWS}) == len(parity.ROWS) >= 40


LAYERS = st.sampled_from(
    [
        {},
        {"norm_op_kwargs": {"affine": False}},
        {"nonlin": "torch.nn.GELU", "nonlin_kwargs": {}},
        {"nonlin": "torch.nn.SiLU", "conv_bias": False},
        {"norm_op": None, "norm_op_kwargs": None},
        parity.DROPOUT,
    ]
)
ROWS = st.builds(
    lambda dimensions, labels, channels, order, **others: parity.row(
        "a random combination",
        **{"transpose_forward": order, **dimensions, **labels, **channels, **others},
    ),
    dimensions=st.sampled_from([{}, {"patch": (24, 16, 32)}, parity.SLICES]),
    labels=st.sampled_from([{}, parity.THREE, parity.REGIONS]),
    channels=st.sampled_from([{}, parity.PET, parity.FOUR]),
    order=st.permutations(range(3)),
    grid=st.sampled_from([parity.JOINT, parity.THICK, parity.THICK_LAST, parity.THIN]),
    tta=st.booleans(),
    axes=st.sampled_from(["LPS", "RAS", "PSR", "ASL", "SRA"]),
    reader=st.sampled_from(["SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient"]),
    folds=st.sampled_from([("0",), ("all",), ("0", "1")]),
    network=st.sampled_from(["PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"]),
    trainer=st.sampled_from(["nnUNetTrainer", "nnUNetTrainerBN", "nnUNetTrainerNoMirroring"]),
    layers=LAYERS,
)


@pytest.mark.slow
@settings(max_examples=12, derandomize=False, print_blob=True)
@given(of=ROWS)
def test_random_combinations_agree_but_for_rounding(of: parity.Row) -> None:
    """Their networks may be less decided than those of the table."""
    with TemporaryDirectory() as folder:
        for result in parity.measure(of, Path(folder)):
            assert result.agreement.voxel_agreement >= 0.999, result.row
            assert result.margin_steps <= MAX_MARGIN_STEPS, result.row
