"""Which comparisons with nnU-Net let a bundle go, and which do not."""

from pathlib import Path

import pytest
import torch

from flare_export.bundle import conversion
from flare_export.bundle.conversion import Naming, export_bundle
from flare_export.errors import DisagreementError, ModelError
from flare_export.parity import network_parity
from flare_export.parity.case_parity import CaseParity
from flare_export.parity.network_parity import measure_network_parity
from flare_export.source.model_folder import ModelFolder
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import Agreement
from tests.runtime.manifests import ArithmeticNetwork, memory_bundle


@pytest.fixture
def exported(tiny_model, tmp_path, monkeypatch):
    """A function that exports where the comparison gives (backend, precision, Dice, margin in float16 units)."""

    def export(*results):
        found = [
            CaseParity(
                "case",
                backend,
                precision,
                Agreement(voxel_agreement=0.999, dice=dice, foreground_voxels=500),
                7,
                0.1,
                units,
            )
            for backend, precision, dice, units in results
        ]
        monkeypatch.setattr(conversion, "measure_case_parity", lambda *_: iter(found))
        told = []
        target = tmp_path / "bundle"
        try:
            export_bundle(ModelFolder.read(tiny_model), target, Naming(), [[Path("case.nii")]], told.append)
        finally:
            assert told[-len(found) :] == [result.row for result in found]  # also of what is refused
        return Bundle.open(target)

    return export


class Close(torch.nn.Module):
    """A network for which a little less speaks for a lesion than against one, everywhere but in one voxel."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, 2, *tiles.shape[2:])
        logits[:, 1] = -1e-5
        logits[:, 1, 0, 0, 0] = 1.0
        return logits


@pytest.mark.parametrize(("sign", "agrees"), [(1, True), (-1, False)])
def test_logits_within_rounding_have_to_give_the_same_mask_all_the_same(monkeypatch, sign, agrees):
    expected = Close()(torch.zeros(1, 1, 8, 8, 8)).numpy()
    expected[:, 1][expected[:, 1] < 0] *= sign
    monkeypatch.setattr(network_parity, "open_network", lambda *_: ArithmeticNetwork(lambda _tiles: expected))
    if agrees:
        assert {parity.dice for parity in measure_network_parity(memory_bundle(), [Close()])} == {1.0}
        return
    with pytest.raises(
        DisagreementError, match=r"by up to 2e-05 in the logits \(at most 0.001\) and agrees on 0\.1953%"
    ):
        measure_network_parity(memory_bundle(), [Close()])


@pytest.mark.parametrize(
    ("backend", "dice", "units"),
    [
        ("openvino", 0.9995, 100.0),
        ("openvino", 0.98, 8.0),  # as far as rounding goes
        ("onnxruntime", 0.995, 100.0),
        ("onnxruntime", 0.98, 8.0),
    ],
)
def test_float32_that_agrees_or_differs_by_rounding_alone_becomes_a_bundle(exported, backend, dice, units):
    bundle = exported((backend, "fp32", dice, units))
    (record,) = [record for record in bundle.manifest.parity if record.scope == "case"]
    assert (record.backend, record.precision, record.subject, record.dice) == (backend, "fp32", "case", dice)


@pytest.mark.parametrize(
    ("backend", "dice", "says"),
    [("openvino", 0.9994, "at least 0.9995 is demanded"), ("onnxruntime", 0.9949, "at least 0.995 is demanded")],
)
def test_float32_that_differs_by_more_becomes_none(exported, tmp_path, backend, dice, says):
    with pytest.raises(DisagreementError, match=rf"case: {backend} has Dice {dice:.6f} .*{says}"):
        exported(("openvino", "fp32", 1.0, 0.0), (backend, "fp32", dice, 8.5))
    assert list(tmp_path.iterdir()) == []


def test_other_precisions_are_written_down_as_they_are(exported):
    results = [("onnxruntime", "fp16", 0.5, 100.0), ("openvino", "bf16", 0.6, 100.0)]
    records = [record for record in exported(*results).manifest.parity if record.scope == "case"]
    assert [(record.backend, record.precision, record.dice) for record in records] == [r[:3] for r in results]


def test_a_patch_that_this_machine_cannot_hold_is_refused_before_the_network_runs(tiny_model, tmp_path, monkeypatch):
    # The first stage gives 4 features of 16 x 16 x 16 voxels, of 4 bytes, and a convolution holds two such tensors.
    needed = 2 * 4 * 4 * 16**3
    monkeypatch.setattr(conversion, "available_bytes", lambda: needed - 1)
    with pytest.raises(ModelError, match="has to be tried out on a larger machine"):
        export_bundle(ModelFolder.read(tiny_model), tmp_path / "bundle", Naming())
    assert list(tmp_path.iterdir()) == []
    for available in (needed, None):
        monkeypatch.setattr(conversion, "available_bytes", lambda bytes_=available: bytes_)
        export_bundle(ModelFolder.read(tiny_model), tmp_path / f"{available}", Naming())
