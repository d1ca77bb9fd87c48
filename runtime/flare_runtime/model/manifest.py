"""The schema of a bundle's `manifest.json`: everything the runtime has to know of a model, and no code."""

from collections.abc import Iterator
from math import prod
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from flare_runtime.errors import BundleError, first_line

SCHEMA_VERSION: Final = 1
MAX_CAUTION: Final = 400

# The least distance of neighbouring tiles as a share of the patch: 20 tiles over each voxel along each axis.
MIN_STEP: Final = 0.05

# Bounds of what any nnU-Net model may say: far from every real one, near enough that arithmetic with it cannot fail.
Intensity = Annotated[float, Meta(ge=-1e9, le=1e9)]
Deviation = Annotated[float, Meta(ge=1e-9, le=1e9)]
SpacingMm = Annotated[float, Meta(ge=1e-4, le=1000)]
Side = Annotated[int, Meta(ge=1, le=2048)]
Features = Annotated[int, Meta(ge=1, le=1 << 14)]
LabelValue = Annotated[int, Meta(ge=0, le=255)]
ForegroundValue = Annotated[int, Meta(ge=1, le=255)]
# One line: it reaches terminals and tables.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"
Text = Annotated[str, Meta(max_length=1024, pattern=_ONE_LINE)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=128)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Vector: TypeAlias = tuple[SpacingMm, SpacingMm, SpacingMm]
Shape: TypeAlias = tuple[Side, Side, Side]
Axis = Annotated[int, Meta(ge=0, le=2)]
# nnU-Net's readers of NIfTI. What each makes of an image is for `pipeline.reader_rules` to say.
Reader: TypeAlias = Literal["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
# Where the axes x, y and z of an array point: an end of each of the patient's axes.
Orientation = Annotated[str, Meta(pattern=r"^(?=.*[LR])(?=.*[PA])(?=.*[IS])[LRPAIS]{3}\Z")]
# 512 voxels along every axis, and 268 million weights in float32.
_MAX_PATCH_VOXELS = 1 << 27
_MAX_FILE_BYTES = 1 << 30


class CTScheme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="scheme", tag="ct"):
    """Clip to [lower, upper], subtract the mean, divide by std."""

    lower: Intensity
    upper: Intensity
    mean: Intensity
    std: Deviation


class ZScoreScheme(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="scheme", tag="zscore"
):
    """Subtract the image's mean, divide by its std; inside the non-zero mask only where `masked`."""

    masked: bool = False


class Rescale01Scheme(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="scheme", tag="rescale01"
):
    """Map the image's range to 0..1."""


class RGB01Scheme(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="scheme", tag="rgb01"
):
    """Divide by 255."""


class NoScheme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="scheme", tag="none"):
    """Leave the intensities as they are."""


Scheme: TypeAlias = CTScheme | ZScoreScheme | Rescale01Scheme | RGB01Scheme | NoScheme


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input channel, in the order the network takes them."""

    name: Text
    normalisation: Scheme


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One foreground structure: what the mask's values mean; several values where regions overlap."""

    name: Text
    values: Annotated[tuple[LabelValue, ...], Meta(min_length=1, max_length=256)]


class Resampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """nnU-Net's resampling parameters: spline orders in plane and along a separate axis."""

    order: Annotated[int, Meta(ge=0, le=5)]
    order_z: Annotated[int, Meta(ge=0, le=5)] = 0
    force_separate_z: bool | None = None


class NetworkInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network's size, for people and planners."""

    architecture: Text
    stages: Annotated[int, Meta(ge=1, le=32)]
    features: Annotated[tuple[Features, ...], Meta(min_length=1, max_length=32)]
    parameters: Annotated[int, Meta(ge=1, le=1 << 30)]
    gmac: Annotated[float, Meta(gt=0, le=1e9)]
    outputs: Annotated[int, Meta(ge=1, le=256)]


class BundleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the bundle; `role` says what it is for."""

    name: FileName
    role: Literal["network", "activations", "model_card", "licence"]
    sha256: Digest
    bytes: Annotated[int, Meta(ge=1, le=_MAX_FILE_BYTES)]
    precision: Literal["fp32", "fp16", "int8"] | None = None
    opset: int | None = None
    fold: Text | None = None


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the weights come from."""

    checkpoints: dict[Text, Digest]
    dataset: Text
    trainer: Text
    configuration: Text
    epochs: tuple[int, ...]
    exporter: dict[Text, Text]


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far masks agree with those of a reference.

    Attributes:
        voxel_agreement: share of all voxels with the same label.
        dice: of the foreground (label > 0); 1 where both are empty.
        foreground_voxels: how many the reference has; a Dice over none says nothing.
    """

    voxel_agreement: float
    dice: float
    foreground_voxels: Annotated[int, Meta(ge=0)]


class Parity(Agreement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far one backend agrees with its reference, as measured at export.

    Attributes:
        backend, precision: what was run.
        reference: what it was compared with, such as `torch fp32` or `nnU-Net 2.8.1`.
        scope: a single patch of synthetic input, or a whole case through the whole pipeline.
        subject: what it was run on.
        max_logit_difference: largest absolute difference of the logits, where logits were compared.
    """

    backend: Text
    precision: Text
    reference: Text
    scope: Literal["patch", "case"]
    subject: Text
    max_logit_difference: float | None = None


class PostprocessingStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of all voxels of a mask that have one of these values, the largest connected component alone stays."""

    keep_largest: Annotated[tuple[ForegroundValue, ...], Meta(min_length=1, max_length=255)]


class PreviousStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model whose mask a cascade's network sees beside the image: for each label value a channel that is 1 there.

    Attributes:
        model: that model; its files lie in the same bundle.
        mask_resampling: how its mask, on the image's grid, is resampled to that of the cascade's network.
    """

    model: "Manifest"
    mask_resampling: Resampling


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A model: what goes in, what comes out, which files hold it, and how well they agree with nnU-Net.

    `caution` is what whoever uses the model has to be told: one line, which every run prints and every record holds.
    A network of two `dimensions` sees slice by slice: its patch is one slice deep, and slices stay where they are; the
    z of `spacing_mm` then only says what the model was trained on.
    `postprocessing` is what nnU-Net found to make masks of this model better, step by step.
    `training_orientation` says how the images of the training were stored, such as LPS, where somebody knows it.
    """

    schema_version: Literal[1]
    name: Text
    licence: Text
    caution: Annotated[str, Meta(min_length=1, max_length=MAX_CAUTION, pattern=_ONE_LINE)] | None = None
    labels: tuple[Label, ...]
    regions_class_order: tuple[LabelValue, ...] | None
    channels: Annotated[tuple[Channel, ...], Meta(min_length=1, max_length=64)]
    dimensions: Literal[2, 3] = 3
    reader: Reader = "SimpleITKIO"
    training_orientation: Orientation | None = None
    spacing_mm: Vector
    patch: Shape
    step: Annotated[float, Meta(ge=MIN_STEP, le=1)]
    transpose_forward: tuple[Axis, Axis, Axis]
    image_resampling: Resampling
    logits_resampling: Resampling
    postprocessing: Annotated[tuple[PostprocessingStep, ...], Meta(max_length=256)] = ()
    mirror_axes: tuple[Axis, ...]
    network: NetworkInfo
    files: Annotated[tuple[BundleFile, ...], Meta(max_length=64)]
    provenance: Provenance
    parity: tuple[Parity, ...] = ()
    previous_stage: PreviousStage | None = None

    @property
    def label_values(self) -> tuple[int, ...]:
        """The values of a mask but 0, in ascending order."""
        return tuple(sorted({value for label in self.labels for value in label.values} - {0}))

    @property
    def inputs(self) -> int:
        """The number of channels that the network takes: the image's, and behind them a previous stage's labels."""
        return len(self.channels) + (len(self.label_values) if self.previous_stage else 0)

    @property
    def all_files(self) -> tuple[BundleFile, ...]:
        """The files of this model and of its previous stage."""
        return self.files + (self.previous_stage.model.files if self.previous_stage else ())

    def grid_spacing_mm(self, spacing_mm: Vector) -> Vector:
        """The spacing at which the network sees an image of `spacing_mm`, both (z, y, x) in its own order of axes."""
        return self.spacing_mm if self.dimensions == 3 else (spacing_mm[0], *self.spacing_mm[1:])

    @property
    def label_names(self) -> dict[int, str]:
        """The name of every value of a mask but 0; where labels overlap, that of the label with the fewest values."""
        ordered = sorted(self.labels, key=lambda label: len(label.values), reverse=True)
        return {value: label.name for label in ordered for value in label.values}


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Parse and validate a manifest; `name` is what messages call it.

    Raises:
        BundleError: where it is not JSON, breaks the schema or contradicts itself.
    """
    try:
        version = msgspec.json.decode(data, type=dict).get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{name}: schema version {version!a:.40}; this runtime reads {SCHEMA_VERSION}, export it anew"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{name}: {first_line(error)}") from error
    for problem in (*contradictions(manifest), *_contradictions_of_files(manifest)):
        raise BundleError(f"{name}: {problem}")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield what is wrong with what a manifest says of its model, each entry taken by itself being sound."""
    if sorted(manifest.transpose_forward) != [0, 1, 2]:
        yield f"transpose_forward {manifest.transpose_forward} is not a permutation of 0, 1, 2"
    if len(set(manifest.mirror_axes)) != len(manifest.mirror_axes):
        yield f"mirror_axes {manifest.mirror_axes} names an axis twice"
    if manifest.dimensions == 2 and (manifest.patch[0] != 1 or 0 in manifest.mirror_axes):
        yield f"a 2D network with a patch of {manifest.patch} and mirror_axes {manifest.mirror_axes}"
    if manifest.logits_resampling.order > 1 or manifest.logits_resampling.order_z > 1:
        yield "logits can be resampled with order 0 or 1 only"
    for channel in manifest.channels:
        if isinstance(scheme := channel.normalisation, CTScheme) and scheme.lower >= scheme.upper:
            yield f"a channel is clipped to {scheme.lower:g} .. {scheme.upper:g}, which leaves nothing"
    if prod(manifest.patch) > _MAX_PATCH_VOXELS:
        yield f"a patch of {manifest.patch} holds more than {_MAX_PATCH_VOXELS:,} voxels"
    if len(manifest.network.features) != manifest.network.stages:
        yield f"{len(manifest.network.features)} numbers of features for {manifest.network.stages} stages"
    yield from _contradictions_of_labels(manifest)
    if manifest.previous_stage is not None:
        yield from _contradictions_of_stages(manifest, manifest.previous_stage)
    known = {value for label in manifest.labels for value in label.values}
    for value in sorted({value for step in manifest.postprocessing for value in step.keep_largest} - known):
        yield f"the postprocessing names the value {value}, which no label has"


def _contradictions_of_labels(manifest: Manifest) -> Iterator[str]:
    order, outputs = manifest.regions_class_order, manifest.network.outputs
    if order is not None:
        if not len(order) == len(manifest.labels) == outputs:
            yield f"{len(order)} regions and {len(manifest.labels)} labels for {outputs} network outputs"
        return
    if outputs < 2:
        yield f"{outputs} network outputs; 2 to 256 exclusive classes are allowed"
    values = sorted(value for label in manifest.labels for value in label.values)
    if values != list(range(1, outputs)):
        yield f"labels of the values {values} for {outputs} network outputs; each of 1 to {outputs - 1} has one label"


def _contradictions_of_stages(manifest: Manifest, previous: PreviousStage) -> Iterator[str]:
    stage, rule = previous.model, previous.mask_resampling
    if stage.previous_stage is not None:
        yield "the previous stage has one itself; two stages are allowed"
        return
    yield from (f"previous_stage: {problem}" for problem in contradictions(stage))
    if len(stage.channels) != len(manifest.channels):
        yield f"{len(stage.channels)} channels in the previous stage, {len(manifest.channels)} in this one"
    if stage.label_values != manifest.label_values:
        yield f"labels {stage.label_values} in the previous stage, {manifest.label_values} in this one"
    if rule.order > 1 or rule.order_z > 0:
        yield "a previous stage's mask can be resampled with order 0 or 1 only, and 0 along a separate axis"


def _contradictions_of_files(manifest: Manifest) -> Iterator[str]:
    names = [file.name for file in manifest.all_files]
    if len(set(names)) != len(names):
        yield "a file is listed twice"
    stages = [manifest] if manifest.previous_stage is None else [manifest, manifest.previous_stage.model]
    held = [{file.precision for file in stage.files if file.role == "network"} for stage in stages]
    if not all(held):
        yield "no file has the role network"
    if held[0] != held[-1]:
        yield "the stages hold networks of different precisions"
    for file in manifest.all_files:
        if file.role == "network" and file.precision not in ("fp32", "fp16"):
            yield f"{file.name}: a network of the precision {file.precision}; fp32 and fp16 are allowed"
