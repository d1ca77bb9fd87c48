"""nnU-Net's `plans.json` and `dataset.json`, reduced to what inference needs and checked for its traps."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from flare_export.errors import ModelError
from flare_runtime.manifest import (
    Channel,
    CTScheme,
    Label,
    NoScheme,
    Resampling,
    Rescale01Scheme,
    RGB01Scheme,
    Scheme,
    ZScoreScheme,
)

OLD_STYLE_KEYS = (
    "UNet_class_name",
    "UNet_base_num_features",
    "unet_max_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
)
_RESAMPLING_FUNCTION = "resample_data_or_seg_to_shape"
_READERS = ("SimpleITKIO", "NibabelIO")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: where the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); give an nnU-Net trained-model folder") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return content


def resolve_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one configuration with what it inherits, and a complete `architecture` block.

    nnU-Net merges an inherited configuration key by key, not deeply, and reads old-style keys only where there is no
    `architecture`. Old-style keys beside such a block therefore say one network while another is trained.

    Raises:
        ModelError: for that trap, a missing or circular parent, and what is not supported, each by name.
    """
    configuration = inherited(plans["configurations"], name)
    stale = [key for key in OLD_STYLE_KEYS if key in configuration]
    if "architecture" in configuration and stale:
        raise ModelError(
            f"configuration {name!r} has the old-style keys {', '.join(stale)} beside an `architecture` block. "
            "nnU-Net ignores the old keys and trains the block's network, so the plan does not say what was trained. "
            "Remove them, or put what they mean into the block"
        )
    if "architecture" not in configuration:
        missing = [key for key in OLD_STYLE_KEYS if key not in configuration and key != "num_pool_per_axis"]
        if missing:
            raise ModelError(f"configuration {name!r} has no `architecture` block and lacks {', '.join(missing)}")
        configuration["architecture"] = _architecture_from_old_keys(configuration)
    _refuse_unsupported(plans, name, configuration)
    return configuration


def inherited(configurations: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return one configuration with what it inherits, merged as nnU-Net merges: key by key, not deeply.

    Raises:
        ModelError: for a missing or circular parent.
    """
    if name in seen:
        raise ModelError(f"the configurations {' -> '.join((*seen, name))} inherit from each other")
    if name not in configurations:
        raise ModelError(f"plans.json has no configuration {name!r}; it has {', '.join(configurations)}")
    own = deepcopy(configurations[name])
    parent = own.get("inherits_from")
    return {**inherited(configurations, parent, (*seen, name)), **own} if parent else own


def _architecture_from_old_keys(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `architecture` block that nnU-Net itself derives from a plan of before 2.3."""
    stages = len(old["n_conv_per_stage_encoder"])
    plain = old["UNet_class_name"] == "PlainConvUNet"
    base, most = old["UNet_base_num_features"], old["unet_max_num_features"]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{old['UNet_class_name']}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": old["conv_kernel_sizes"],
            "strides": old["pool_op_kernel_sizes"],
            "n_conv_per_stage" if plain else "n_blocks_per_stage": old["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": old["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _refuse_unsupported(plans: Mapping[str, Any], name: str, configuration: Mapping[str, Any]) -> None:
    if len(configuration["patch_size"]) != 3 or len(configuration["spacing"]) != 3:
        raise ModelError(f"configuration {name!r} is 2D; only 3D networks can be exported")
    if configuration.get("previous_stage"):
        raise ModelError(f"configuration {name!r} is a cascade stage; export its 3d_fullres or 3d_lowres instead")
    for what, given, allowed in (
        ("preprocessor", configuration.get("preprocessor_name", "DefaultPreprocessor"), ("DefaultPreprocessor",)),
        ("label manager", plans.get("label_manager", "LabelManager"), ("LabelManager",)),
        ("image reader", plans.get("image_reader_writer", "SimpleITKIO"), _READERS),
        ("image resampling", configuration["resampling_fn_data"], (_RESAMPLING_FUNCTION,)),
        ("logits resampling", configuration["resampling_fn_probabilities"], (_RESAMPLING_FUNCTION,)),
    ):
        if given not in allowed:
            raise ModelError(f"the {what} {given!r} is not supported; only {', '.join(allowed)}")


def image_resampling(configuration: Mapping[str, Any]) -> Resampling:
    """Return how images are resampled."""
    return _resampling(configuration["resampling_fn_data_kwargs"], default_order=3)


def logits_resampling(configuration: Mapping[str, Any]) -> Resampling:
    """Return how logits are resampled back.

    Raises:
        ModelError: for an order above 1, whose overshoot the runtime does not reproduce.
    """
    rule = _resampling(configuration["resampling_fn_probabilities_kwargs"], default_order=3)
    if rule.order > 1 or rule.order_z > 1:
        raise ModelError(
            f"logits are resampled with order {rule.order}, {rule.order_z} along z; only 0 and 1 are supported"
        )
    return rule


def _resampling(kwargs: Mapping[str, Any], default_order: int) -> Resampling:
    threshold = kwargs.get("separate_z_anisotropy_threshold", 3)
    if threshold != 3 or kwargs.get("is_seg"):
        raise ModelError(f"resampling options {dict(kwargs)} are not supported; the anisotropy threshold must be 3")
    # nnU-Net's function defaults to False where the plan says nothing; its planner always writes null.
    return Resampling(
        order=kwargs.get("order", default_order),
        order_z=kwargs.get("order_z", 0),
        force_separate_z=kwargs.get("force_separate_z", False),
    )


def channels(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], dataset: Mapping[str, Any]
) -> tuple[Channel, ...]:
    """Return the input channels in the network's order, each with its normalisation."""
    names: Mapping[str, str] = dataset.get("channel_names") or dataset["modality"]
    schemes: Sequence[str] = configuration["normalization_schemes"]
    masked: Sequence[bool] = configuration["use_mask_for_norm"]
    statistics = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    return tuple(
        Channel(name=names[key], normalisation=_scheme(schemes[int(key)], masked[int(key)], statistics.get(key)))
        for key in sorted(names, key=int)
    )


def _scheme(name: str, masked: bool, statistics: Mapping[str, float] | None) -> Scheme:
    if name == "CTNormalization":
        if statistics is None:
            raise ModelError(
                "plans.json has no foreground_intensity_properties_per_channel, which CTNormalization needs"
            )
        low, high = statistics["percentile_00_5"], statistics["percentile_99_5"]
        return CTScheme(lower=low, upper=high, mean=statistics["mean"], std=max(statistics["std"], 1e-8))
    if name == "ZScoreNormalization":
        return ZScoreScheme(masked=masked)
    simple: dict[str, Callable[[], Scheme]] = {
        "RescaleTo01Normalization": Rescale01Scheme,
        "RGBTo01Normalization": RGB01Scheme,
        "NoNormalization": NoScheme,
    }
    if name not in simple:
        raise ModelError(f"the normalisation {name!r} is not supported; only CT, ZScore, RescaleTo01, RGBTo01 and No")
    return simple[name]()


def labels(dataset: Mapping[str, Any]) -> tuple[tuple[Label, ...], tuple[int, ...] | None]:
    """Return the foreground labels, and the class order where they are overlapping regions.

    Raises:
        ModelError: where exclusive labels are not 0, 1, 2, ... or a value leaves 0..255.
    """
    foreground = {name: value for name, value in dataset["labels"].items() if name not in ("background", "ignore")}
    structures = tuple(
        Label(name=name, values=tuple(map(int, value)) if isinstance(value, list) else (int(value),))
        for name, value in foreground.items()
    )
    is_region = any(len(structure.values) > 1 for structure in structures)
    values = sorted({value for structure in structures for value in structure.values})
    if values and values[-1] > 255:
        raise ModelError(f"label {values[-1]} does not fit an 8-bit mask")
    if is_region:
        order = dataset.get("regions_class_order")
        if not order or len(order) != len(structures):
            raise ModelError("dataset.json has regions but no matching regions_class_order")
        return structures, tuple(map(int, order))
    if values != list(range(1, len(values) + 1)):
        raise ModelError(f"the labels {values} are not consecutive from 1; nnU-Net's argmax needs that")
    return structures, None
