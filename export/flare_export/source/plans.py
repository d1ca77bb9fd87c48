"""nnU-Net's `plans.json`, reduced to what inference needs and checked for its traps."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, get_args

from flare_export.errors import ModelError
from flare_export.source.dataset import channel_names
from flare_export.source.schema import (
    Configuration,
    OldStyle,
    Plans,
    ResamplingOptions,
    Statistics,
    check_architecture,
    checked,
)
from flare_runtime.files.naming import visible
from flare_runtime.model.manifest import (
    Channel,
    CTScheme,
    NoScheme,
    Reader,
    Resampling,
    Rescale01Scheme,
    RGB01Scheme,
    Scheme,
    SpacingMm,
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
# What nnU-Net's own U-Nets have in common, as an `architecture` block says it.
LAYERS = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
REQUIRES_IMPORT = ("conv_op", "norm_op", "dropout_op", "nonlin")
_RESAMPLING_FUNCTION = "resample_data_or_seg_to_shape"
_PLANS = "plans.json"
_READERS: tuple[Reader, ...] = get_args(Reader)
# nnU-Net's other readers.
_OTHER_READERS = {
    "Tiff3DIO": "reads TIFF, whose spacing lies in a file beside it",
    "NaturalImage2DIO": "reads pictures, which are 2D",
}


def resolve_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one configuration with what it inherits, and a complete `architecture` block.

    nnU-Net merges an inherited configuration key by key, not deeply, and reads old-style keys only where there is no
    `architecture`. Old-style keys beside such a block therefore say one network while another is trained.

    Raises:
        ModelError: for that trap, a missing or circular parent, and what is not supported, each by name.
    """
    whole = checked(plans, Plans, _PLANS)
    if sorted(whole.transpose_forward) != [0, 1, 2]:
        raise ModelError(f"transpose_forward {whole.transpose_forward} of {_PLANS} is not a permutation of 0, 1, 2")
    configuration = inherited(whole.configurations, name)
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
        configuration["architecture"] = _architecture_from_old_keys(configuration, name)
    check_architecture(configuration["architecture"])
    content = checked(configuration, Configuration, f"configuration {name!r} of {_PLANS}")
    if len(content.patch_size) != len(content.spacing):
        raise ModelError(f"configuration {name!r} has the patch {content.patch_size} and the spacing {content.spacing}")
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
        raise ModelError(f"plans.json has no configuration {name!r}; it has {', '.join(configurations) or 'none'}")
    own = deepcopy(configurations[name])
    parent = own.get("inherits_from")
    if parent is not None and not isinstance(parent, str):
        raise ModelError(f"configuration {name!r} inherits from {parent!r}, which is no name")
    return {**inherited(configurations, parent, (*seen, name)), **own} if parent else own


def _architecture_from_old_keys(old: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the `architecture` block that nnU-Net itself derives from a plan of before 2.3."""
    checked(old, OldStyle, f"configuration {name!r} of {_PLANS}")
    stages = len(old["n_conv_per_stage_encoder"])
    plain = old["UNet_class_name"] == "PlainConvUNet"
    base, most = old["UNet_base_num_features"], old["unet_max_num_features"]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{old['UNet_class_name']}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
            "kernel_sizes": old["conv_kernel_sizes"],
            "strides": old["pool_op_kernel_sizes"],
            "n_conv_per_stage" if plain else "n_blocks_per_stage": old["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": old["n_conv_per_stage_decoder"],
            **_layers(len(old["patch_size"])),
        },
        "_kw_requires_import": list(REQUIRES_IMPORT),
    }


def _layers(dimensions: int) -> dict[str, Any]:
    named = {key: value.replace("3d", f"{dimensions}d") for key, value in LAYERS.items() if isinstance(value, str)}
    return {**deepcopy(LAYERS), **named}


def _refuse_unsupported(plans: Mapping[str, Any], name: str, configuration: Mapping[str, Any]) -> None:
    of_masks = [("mask resampling", configuration.get("resampling_fn_seg"), (_RESAMPLING_FUNCTION,))]
    for what, value, allowed in (
        ("preprocessor", configuration.get("preprocessor_name", "DefaultPreprocessor"), ("DefaultPreprocessor",)),
        ("label manager", plans.get("label_manager", "LabelManager"), ("LabelManager",)),
        ("image resampling", configuration["resampling_fn_data"], (_RESAMPLING_FUNCTION,)),
        ("logits resampling", configuration["resampling_fn_probabilities"], (_RESAMPLING_FUNCTION,)),
        *(of_masks if configuration.get("previous_stage") else []),
    ):
        if value not in allowed:
            raise ModelError(f"the {what} {value!r} is not supported; only {', '.join(allowed)}")


def grid_spacing_mm(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the spacing of the network's grid, (z, y, x); of a 2D network z is the median of the training's images.

    Raises:
        ModelError: where the plan of a 2D network does not say that.
    """
    spacing = list(configuration["spacing"])
    if len(spacing) == 2:
        known = checked(plans, Plans, _PLANS).original_median_spacing_after_transp
        kind: Any = tuple[SpacingMm, SpacingMm, SpacingMm]
        spacing.insert(0, checked(known, kind, f"original_median_spacing_after_transp of {_PLANS}")[0])
    z, y, x = map(float, spacing)
    return z, y, x


def reader(plans: Mapping[str, Any]) -> Reader:
    """Return which of nnU-Net's readers gave the network its images.

    Raises:
        ModelError: for a reader of another format, or one that is none of nnU-Net's.
    """
    given = checked(plans, Plans, _PLANS).image_reader_writer
    for known in _READERS:
        if given == known:
            return known
    why = _OTHER_READERS.get(given, "is none of nnU-Net's, and what it does to images is unknown")
    raise ModelError(f"the image reader {given!r} {why}; only {', '.join(_READERS)} are supported")


def image_resampling(configuration: Mapping[str, Any]) -> Resampling:
    """Return how images are resampled."""
    return _resampling(configuration["resampling_fn_data_kwargs"])


def logits_resampling(configuration: Mapping[str, Any]) -> Resampling:
    """Return how logits are resampled back.

    Raises:
        ModelError: for an order above 1, whose overshoot the runtime does not reproduce.
    """
    rule = _resampling(configuration["resampling_fn_probabilities_kwargs"])
    if rule.order > 1 or rule.order_z > 1:
        raise ModelError(
            f"logits are resampled with order {rule.order}, {rule.order_z} along z; only 0 and 1 are supported"
        )
    return rule


def mask_resampling(configuration: Mapping[str, Any]) -> Resampling:
    """Return how a cascade's network gets the mask of its previous stage.

    Raises:
        ModelError: for orders that the runtime does not reproduce.
    """
    rule = _resampling(configuration.get("resampling_fn_seg_kwargs") or {}, of_masks=True)
    if rule.order > 1 or rule.order_z > 0:
        raise ModelError(
            f"masks are resampled with order {rule.order}, {rule.order_z} along z; only 0 and 1 are supported, and 0 "
            "along z"
        )
    return rule


def _resampling(kwargs: Mapping[str, Any], *, of_masks: bool = False) -> Resampling:
    options = checked(kwargs, ResamplingOptions, _PLANS)
    if options.separate_z_anisotropy_threshold != 3 or options.is_seg != of_masks:
        raise ModelError(f"resampling options {dict(kwargs)} are not supported; the anisotropy threshold must be 3")
    return Resampling(order=options.order, order_z=options.order_z, force_separate_z=options.force_separate_z)


def channels(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], dataset: Mapping[str, Any]
) -> tuple[Channel, ...]:
    """Return the input channels in the network's order, each with its normalisation.

    Raises:
        ModelError: as `channel_names`, or where the plan does not say how each is normalised.
    """
    names = channel_names(dataset)
    schemes, masked = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    if min(len(schemes), len(masked)) < len(names):
        raise ModelError(
            f"{_PLANS} normalises {min(len(schemes), len(masked))} channels, dataset.json has {len(names)}"
        )
    rules = checked(plans, Plans, _PLANS)
    statistics = (
        rules.foreground_intensity_properties_per_channel or rules.foreground_intensity_properties_by_modality or {}
    )
    return tuple(
        Channel(name=visible(name), normalisation=_scheme(schemes[index], masked[index], statistics.get(str(index))))
        for index, name in enumerate(names)
    )


def _scheme(name: str, masked: bool, statistics: Any) -> Scheme:
    if name == "CTNormalization":
        if statistics is None:
            raise ModelError(
                f"{_PLANS} has no foreground_intensity_properties_per_channel, which CTNormalization needs"
            )
        of = checked(statistics, Statistics, f"foreground_intensity_properties_per_channel of {_PLANS}")
        return CTScheme(lower=of.percentile_00_5, upper=of.percentile_99_5, mean=of.mean, std=max(of.std, 1e-8))
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
