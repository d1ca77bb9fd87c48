"""Schemas of what export uses of plans.json and dataset.json; both hold more."""

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from flare_export.errors import ModelError
from flare_export.source.json_file import shown
from flare_runtime.model.manifest import Axis, Intensity, LabelValue, Side, SpacingMm

Kind = TypeVar("Kind")

SplineOrder = Annotated[int, Meta(ge=0, le=5)]
_PerStage = int | list[int]
_PerStageAndAxis = int | list[int | list[int]]
# A network of so many layers is written down in a second; no model comes near.
_Stages = Annotated[int, Meta(ge=1, le=32)]
_Layers = Annotated[int, Meta(ge=0, le=64)]
_LayersPerStage = _Layers | list[_Layers]


# nnU-Net plans three or four; they are compared with each other.
Configurations = Annotated[dict[str, dict[str, Any]], Meta(max_length=100)]


class Plans(msgspec.Struct):
    """What is used of plans.json beside the configuration."""

    configurations: Configurations
    transpose_forward: tuple[Axis, Axis, Axis]
    dataset_name: str = ""
    original_median_spacing_after_transp: Any = None
    label_manager: str = "LabelManager"
    image_reader_writer: str = "SimpleITKIO"
    foreground_intensity_properties_per_channel: dict[str, Any] | None = None
    foreground_intensity_properties_by_modality: dict[str, Any] | None = None


class OldStyle(msgspec.Struct):
    """How plans of before nnU-Net 2.3 describe a network."""

    patch_size: Annotated[list[int], Meta(min_length=2, max_length=3)]
    UNet_class_name: str
    UNet_base_num_features: int
    unet_max_num_features: int
    n_conv_per_stage_encoder: list[_Layers]
    n_conv_per_stage_decoder: list[_Layers]
    pool_op_kernel_sizes: _PerStageAndAxis
    conv_kernel_sizes: _PerStageAndAxis


# Of nnU-Net's networks; others have other arguments.
ARCHITECTURES = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")


class _NetworkArguments(msgspec.Struct):
    n_stages: _Stages
    features_per_stage: _PerStage
    kernel_sizes: _PerStageAndAxis
    strides: _PerStageAndAxis
    n_conv_per_stage_decoder: _LayersPerStage
    n_conv_per_stage: _LayersPerStage | None = None
    n_blocks_per_stage: _LayersPerStage | None = None


class _NamedArchitecture(msgspec.Struct):
    network_class_name: str


class _Architecture(_NamedArchitecture):
    arch_kwargs: _NetworkArguments
    _kw_requires_import: list[str]


class ResamplingOptions(msgspec.Struct):
    """The options of nnU-Net's resampling, with its defaults."""

    is_seg: bool = False
    order: SplineOrder = 3
    order_z: SplineOrder = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: float = 3


class Configuration(msgspec.Struct):
    """What is used of one configuration, with all that it inherits."""

    patch_size: Annotated[tuple[Side, ...], Meta(min_length=2, max_length=3)]
    spacing: Annotated[tuple[SpacingMm, ...], Meta(min_length=2, max_length=3)]
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    resampling_fn_data: str
    resampling_fn_data_kwargs: ResamplingOptions
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: ResamplingOptions
    architecture: _Architecture
    preprocessor_name: str = "DefaultPreprocessor"
    previous_stage: str | None = None
    resampling_fn_seg: str = ""
    resampling_fn_seg_kwargs: ResamplingOptions | None = None


class Statistics(msgspec.Struct):
    """Of the foreground's intensities, what CT is normalised with."""

    mean: Intensity
    std: Annotated[float, Meta(ge=0, le=1e9)]
    percentile_00_5: Intensity
    percentile_99_5: Intensity


class Dataset(msgspec.Struct):
    """What is used of dataset.json."""

    labels: dict[str, LabelValue | Annotated[tuple[LabelValue, ...], Meta(min_length=1)]]
    regions_class_order: tuple[LabelValue, ...] | None = None
    channel_names: dict[str, str] | None = None
    modality: Any = None  # what nnU-Net 1 called channel_names; nnU-Net reads it where those are missing


def check_architecture(architecture: object) -> str:
    """Return the class name of a plan's `architecture` block, without the module path before it.

    Raises:
        ModelError: where the block names no network that can be exported.
    """
    block = checked(architecture, _NamedArchitecture, "the `architecture` block")
    name = block.network_class_name.rpartition(".")[2]
    if name not in ARCHITECTURES:
        raise ModelError(f"the architecture {name!r} is not supported; only {', '.join(ARCHITECTURES)}")
    return name


def checked(content: object, kind: type[Kind], name: str, *, strict: bool = True) -> Kind:
    """Return what a schema says of some content.

    Args:
        content: as it was decoded, from JSON or a checkpoint.
        kind: the schema.
        name: what messages call it.
        strict: whether numbers have to be numbers; nnU-Net takes some in quotes.

    Raises:
        ModelError: naming the first entry that is missing or of a wrong type or size.
    """
    try:
        return msgspec.convert(content, kind, strict=strict)
    # A checkpoint may hold texts that are no Unicode, and tensors, which are taken for mappings.
    except (msgspec.ValidationError, UnicodeEncodeError, AttributeError) as error:
        raise ModelError(f"{name}: {_told(str(error), content)}") from error


# What msgspec calls the types of JSON.
_KINDS = {
    "object": "an object",
    "array": "a list",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
_FAULT = re.compile(r"(?P<fault>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_EXPECTED = re.compile(r"Expected `(?P<kinds>[a-z |]+)`(?P<bound>.*?)(?:, got .*)?", re.DOTALL)


def _told(fault: str, content: object) -> str:
    """Return in words what msgspec says is wrong with some content: what is there and what is expected."""
    whole = _FAULT.fullmatch(fault)
    assert whole is not None
    path = whole["path"] or ""
    place = path.removeprefix(".")
    if missing := _MISSING.fullmatch(whole["fault"]):
        return f"{place or 'it'} has no {missing['field']}, which nnU-Net expects there"
    expected = _EXPECTED.fullmatch(whole["fault"])
    if expected is None:
        return fault
    kinds = " or ".join(_KINDS.get(kind, kind) for kind in expected["kinds"].split(" | "))
    there = "".join(f" is {shown(value)}" for value in _found(content, path))
    bound = expected["bound"]
    # The bounds of numbers are those of a bundle.
    wanted = f"{kinds}{bound} is allowed" if "=" in bound else f"nnU-Net expects {kinds}{bound}"
    return f"{place or 'it'}{there}; {wanted}"


def _found(content: Any, path: str) -> list[object]:
    """Return what lies at a path of msgspec's, or nothing where it does not name the key."""
    for attribute, index in re.findall(r"\.([^.\[]+)|\[([^\]]+)\]", path):
        try:
            content = content[attribute if attribute else int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return []
    return [content]
