"""The plans of nnU-Net's presets and of its earlier versions say the network that nnU-Net itself reads from them."""

import json
from typing import Any

import pytest

from flare_export.source.architecture import describe
from flare_export.source.plans import resolve_configuration
from tests.model_folders import make_plans

handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")

BLOCKS = {"M": 6, "L": 6, "XL": 7}


def preset(size: str) -> dict[str, Any]:
    """Plans as `nnUNetv2_plan_experiment -pl nnUNetPlannerResEnc{size}` writes them, with what inherits from them."""
    stages = BLOCKS[size]
    plans = make_plans(
        residual=True, features=[min(32 * 2**stage, 320) for stage in range(stages)], patch=(128, 128, 128)
    )
    plans["plans_name"] = f"nnUNetResEncUNet{size}Plans"
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6, 6][:stages]
    arguments["n_conv_per_stage_decoder"] = [1] * (stages - 1)
    plans["configurations"]["3d_fullres_bs4"] = {"inherits_from": "3d_fullres", "batch_size": 4}
    plans["configurations"]["3d_small"] = {"inherits_from": "3d_fullres_bs4", "patch_size": [128, 128, 192]}
    return plans


@pytest.mark.parametrize("size", BLOCKS)
@pytest.mark.parametrize("name", ["3d_fullres", "3d_fullres_bs4", "3d_small"])
def test_presets_of_residual_encoders_are_read_with_what_inherits_from_them(size: str, name: str) -> None:
    plans = preset(size)
    ours = resolve_configuration(plans, name)
    theirs = handler.PlansManager(json.loads(json.dumps(plans))).get_configuration(name)
    assert ours["architecture"]["arch_kwargs"] == theirs.network_arch_init_kwargs
    assert ours["architecture"]["network_class_name"] == theirs.network_arch_class_name
    assert (ours["patch_size"], ours["spacing"]) == (theirs.patch_size, theirs.spacing)
    z, y, x = ours["patch_size"]
    info = describe(ours["architecture"], 1, 3, (z, y, x))
    assert (info.architecture, info.stages) == ("ResidualEncoderUNet", BLOCKS[size])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_plans_of_before_there_were_architectures_are_read_as_nnunet_reads_them(kind: str, dimensions: int) -> None:
    """As nnU-Net 2.0 to 2.2 wrote them, here with a configuration that inherits all of it."""
    sides = (32, 32, 32)[:dimensions]
    plans = make_plans(patch=sides, spacing_mm=(1.5, 1.2, 1.2)[:dimensions])
    (name,) = plans["configurations"]
    configuration = plans["configurations"][name]
    del configuration["architecture"]
    configuration |= {
        "UNet_class_name": kind,
        "UNet_base_num_features": 32,
        "unet_max_num_features": 96,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [2] * dimensions,
        "pool_op_kernel_sizes": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
        "conv_kernel_sizes": [[3] * dimensions] * 3,
    }
    plans["configurations"]["again"] = {"inherits_from": name, "batch_size": 5}
    ours = resolve_configuration(plans, "again")["architecture"]
    with pytest.warns(UserWarning, match="old nnU-Net plans format"):
        theirs = handler.PlansManager(json.loads(json.dumps(plans))).get_configuration("again")
    assert ours["arch_kwargs"] == theirs.network_arch_init_kwargs
    assert ours["arch_kwargs"]["features_per_stage"] == [32, 64, 96]
    z, y, x = (1, *sides)[-3:]
    assert describe(ours, 1, 2, (z, y, x), slices=dimensions == 2).stages == 3
