"""Plans: the network written out in full, to the digit what the paper describes and what its authors trained."""

import json

import numpy as np
import pytest

from flare_train.planning.plan import PRESETS, S4, architecture, is_plans, make_plans

FINGERPRINT = {
    "spacings": [[5.0, 1.0, 1.0], [3.0, 2.0, 2.0], [4.0, 1.5, 1.5]],
    "shapes_after_crop": [[48, 320, 320], [80, 160, 160], [60, 200, 200]],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
}


def test_the_plan_describes_the_data():
    plans = make_plans(FINGERPRINT, "Dataset999_Test", "flarePlans", S4.features)
    configuration = plans["configurations"]["3d_fullres"]
    assert plans["original_median_spacing_after_transp"] == [4.0, 1.5, 1.5]
    assert plans["original_median_shape_after_transp"] == [60, 200, 200]
    # 240 mm by 2.4 mm; 320, 320 and 300 mm by 1.6 mm
    np.testing.assert_allclose(configuration["median_image_size_in_voxels"], [100, 200, 200])
    assert configuration["data_identifier"] == "flarePlans_3d_fullres"
    assert (configuration["spacing"], configuration["patch_size"]) == ([2.4, 1.6, 1.6], [128, 160, 160])


def test_plans_are_told_from_other_files():
    assert is_plans(json.dumps(make_plans(FINGERPRINT, "D", "p", S4.features)).encode())
    others = (b"", b"[]", b"3", b"{}", b'{"labels": {}}', b"\xff", b"[" * 100_000)
    assert not any(map(is_plans, others))


@pytest.mark.parametrize(("preset", "parameters"), [("s4", 5_602_950), ("s6", 31_195_594)])
def test_nnunet_builds_the_presets_with_the_papers_parameters(preset, parameters):
    pytest.importorskip("torch")
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    block = architecture(PRESETS[preset].features)
    arguments = (block["network_class_name"], block["arch_kwargs"], block["_kw_requires_import"])
    network = get_network_from_plans(*arguments, 1, 2, deep_supervision=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_default_patch_fits_every_preset(preset):
    configuration = make_plans(FINGERPRINT, "D", "p", preset.features)["configurations"]["3d_fullres"]
    assert all(side % preset.reduction == 0 for side in configuration["patch_size"])
    assert len(configuration["architecture"]["arch_kwargs"]["strides"]) == len(preset.features)
