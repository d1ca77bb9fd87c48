"""The schema of a bundle's `manifest.json`: everything the runtime has to know of a model, and no code."""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from flare_runtime.errors import BundleError

SCHEMA_VERSION: Final = 1

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Vector: TypeAlias = tuple[Positive, Positive, Positive]
Shape: TypeAlias = tuple[Count, Count, Count]
Axis = Annotated[int, Meta(ge=0, le=2)]


class CTScheme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="scheme", tag="ct"):
    """Clip to [lower, upper], subtract the mean, divide by std."""

    lower: float
    upper: float
    mean: float
    std: Positive


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

    name: str
    normalisation: Scheme


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One foreground structure: what the mask's values mean; several values where regions overlap."""

    name: str
    values: tuple[Annotated[int, Meta(ge=0, le=255)], ...]


class Resampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """nnU-Net's resampling parameters: spline orders in plane and along a separate axis."""

    order: Annotated[int, Meta(ge=0, le=5)]
    order_z: Annotated[int, Meta(ge=0, le=5)] = 0
    force_separate_z: bool | None = None


class NetworkInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The network's size, for people and planners."""

    architecture: str
    stages: Count
    features: tuple[Count, ...]
    parameters: Count
    gmac: Positive
    outputs: Annotated[int, Meta(ge=1)]


class BundleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the bundle; `role` says what it is for."""

    name: FileName
    role: Literal["network", "activations", "model_card", "licence"]
    sha256: Digest
    bytes: Count
    precision: Literal["fp32", "fp16", "int8"] | None = None
    opset: int | None = None
    fold: str | None = None


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the weights come from."""

    checkpoints: dict[str, Digest]
    dataset: str
    trainer: str
    configuration: str
    epochs: tuple[int, ...]
    exporter: dict[str, str]


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far one backend agrees with its reference, as measured at export.

    Attributes:
        backend, precision: what was run.
        reference: what it was compared with, such as `torch fp32` or `nnU-Net 2.8.1`.
        scope: a single patch of synthetic input, or a whole case through the whole pipeline.
        subject: what it was run on.
        voxel_agreement: share of voxels with the same label.
        dice: Dice of the foreground; 1 where both are empty.
        foreground_voxels: how many the reference has; a Dice over none says nothing.
        max_logit_difference: largest absolute difference of the logits, where logits were compared.
    """

    backend: str
    precision: str
    reference: str
    scope: Literal["patch", "case"]
    subject: str
    voxel_agreement: float
    dice: float
    foreground_voxels: Annotated[int, Meta(ge=0)]
    max_logit_difference: float | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model: what goes in, what comes out, which files hold it, and how well they agree with nnU-Net."""

    schema_version: Literal[1]
    name: str
    licence: str
    labels: tuple[Label, ...]
    regions_class_order: tuple[Annotated[int, Meta(ge=0, le=255)], ...] | None
    channels: Annotated[tuple[Channel, ...], Meta(min_length=1)]
    spacing_mm: Vector
    patch: Shape
    step: Annotated[float, Meta(gt=0, le=1)]
    transpose_forward: tuple[Axis, Axis, Axis]
    image_resampling: Resampling
    logits_resampling: Resampling
    mirror_axes: tuple[Axis, ...]
    network: NetworkInfo
    files: tuple[BundleFile, ...]
    provenance: Provenance
    parity: tuple[Parity, ...] = ()


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Parse and validate a manifest; `name` is what messages call it.

    Raises:
        BundleError: where it is not JSON, breaks the schema or contradicts itself.
    """
    try:
        version = msgspec.json.decode(data, type=dict).get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{name}: schema version {version!r}; this runtime reads {SCHEMA_VERSION}, export it anew"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{name}: {error}") from error
    for problem in _contradictions(manifest):
        raise BundleError(f"{name}: {problem}")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _contradictions(manifest: Manifest) -> list[str]:
    problems = []
    if sorted(manifest.transpose_forward) != [0, 1, 2]:
        problems.append(f"transpose_forward {manifest.transpose_forward} is not a permutation of 0, 1, 2")
    if len(set(manifest.mirror_axes)) != len(manifest.mirror_axes):
        problems.append(f"mirror_axes {manifest.mirror_axes} names an axis twice")
    if manifest.logits_resampling.order > 1 or manifest.logits_resampling.order_z > 1:
        problems.append("logits can be resampled with order 0 or 1 only")
    order = manifest.regions_class_order
    if order is not None and len(order) != manifest.network.outputs:
        problems.append(f"{len(order)} regions for {manifest.network.outputs} network outputs")
    if order is None and not 2 <= manifest.network.outputs <= 256:
        problems.append(f"{manifest.network.outputs} network outputs; 2 to 256 exclusive classes are allowed")
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        problems.append("a file is listed twice")
    if not any(file.role == "network" for file in manifest.files):
        problems.append("no file has the role network")
    return problems
