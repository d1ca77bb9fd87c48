"""Adds to a bundle what it needs to run in 8-bit integers: the ranges of its convolutions' inputs, taken from cases."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from flare_export.bundle.place import RANGES_SUFFIX, check_own
from flare_export.parity.agreement import compare
from flare_runtime.backends.ensemble import Ensemble
from flare_runtime.backends.openvino.graph import sum_norms_by_plane
from flare_runtime.backends.openvino.int8 import ActivationRange, encode_ranges, quantisable
from flare_runtime.backends.openvino.network import OpenVINONetwork, open_core
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.errors import BundleError, OutputError, UsageError
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.imaging.file_names import case_name
from flare_runtime.imaging.read import read_volume
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle
from flare_runtime.model.manifest import BundleFile, Manifest, Parity, encode_manifest
from flare_runtime.options import RunOptions
from flare_runtime.pipeline.preprocessing import prepare
from flare_runtime.pipeline.reader_rules import ReaderRules
from flare_runtime.pipeline.tiling import TileGrid
from flare_runtime.segmenter import Segmenter

PRECISION: Final = "int8"
HEADING = f"{'case':<28} {'voxels equal':>12} {'Dice':>9} {'foreground':>11}"


def add_int8(
    bundle: Bundle,
    calibrate: Sequence[Sequence[Path]],
    verify: Sequence[Sequence[Path]],
    report: Callable[[str], None],
    *,
    force: bool = False,
) -> Bundle:
    """Add to a bundle what `--precision int8` needs, and the record of how far that agrees with its float32.

    Args:
        bundle: a folder; what it holds of int8 already is replaced, everything else stays.
        calibrate: cases, each as its channels' files, to take the ranges from: of the kind the model is for.
        verify: cases to segment in float32 and in int8.
        report: takes each comparison as a line, as soon as it is made.
        force: without cases to verify, drop the record of those of an earlier time.

    Raises:
        UsageError: where the cases to calibrate with hold nothing.
        OutputError: where the bundle is a zip, holds what would be lost, or cannot be written.
        DeviceError: where this CPU has no dot products of 8-bit integers.
        BundleError: where the network overflows on a case to calibrate with.
        CaseError: where a case cannot be read or does not fit the model.
    """
    if bundle.previous_stage is not None:
        raise UsageError(f"{bundle.path}: is a cascade, which runs in fp32, bf16 or fp16; there is no int8 for it")
    if not bundle.path.is_dir():
        raise OutputError(f"{bundle.path}: is a zip; unpack it first")
    networks = bundle.networks("fp32")
    _check_losses(bundle, networks, verified=bool(verify) or force)
    check_folder(bundle.path)
    ranges = [activation_ranges(bundle.read_network(file), case_tiles(calibrate, bundle.manifest)) for file in networks]
    compiled = [
        OpenVINONetwork(bundle.read_network(file), PRECISION, ranges=of_network)
        for file, of_network in zip(networks, ranges, strict=True)
    ]
    rounded = Segmenter(bundle, Ensemble(compiled))
    agreements = tuple(_agreements(rounded, verify, report))
    files = dict(_file(network, of_network) for network, of_network in zip(networks, ranges, strict=True))
    kept = tuple(file for file in bundle.manifest.files if file.role != "activations")
    records = tuple(record for record in bundle.manifest.parity if record.precision != PRECISION)
    before = msgspec.structs.replace(bundle.manifest, files=kept, parity=records)
    after = msgspec.structs.replace(before, files=kept + tuple(files), parity=records + agreements)
    # At every moment the manifest names only what is there.
    for name, data in (
        (MANIFEST_NAME, encode_manifest(before)),
        *((file.name, data) for file, data in files.items()),
        (MANIFEST_NAME, encode_manifest(after)),
    ):
        with replacing(bundle.path / name) as stream:
            stream.write(data)
    return Bundle.open(bundle.path)


def _check_losses(bundle: Bundle, networks: Sequence[BundleFile], *, verified: bool) -> None:
    """Refuse to drop what was measured of int8 earlier, and to replace files that are not the bundle's."""
    if not verified and any(record.precision == PRECISION for record in bundle.manifest.parity):
        raise OutputError(
            f"{bundle.path}: would lose how int8 agrees on cases; name cases with --verify, or --force to go on"
        )
    written = [bundle.path / name for name in (MANIFEST_NAME, *map(_ranges_name, networks))]
    check_own([path for path in written if os.path.lexists(path)], bundle.manifest)


def _ranges_name(network: BundleFile) -> str:
    return network.name.removesuffix(".onnx") + RANGES_SUFFIX


def _file(network: BundleFile, ranges: Mapping[str, ActivationRange]) -> tuple[BundleFile, bytes]:
    data = encode_ranges(ranges)
    file = BundleFile(
        name=_ranges_name(network),
        role="activations",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        precision=PRECISION,
        fold=network.fold,
    )
    return file, data


def case_tiles(cases: Sequence[Sequence[Path]], manifest: Manifest) -> Iterator[FloatArray]:
    """Yield tiles (1, channels, z, y, x) that cover every case once, as the network takes them."""
    rules = ReaderRules.of(manifest)
    for channels in cases:
        prepared = prepare(rules.read(channels), manifest)
        if prepared is None:
            continue
        _, z, y, x = prepared.image.shape
        for box in TileGrid.covering((z, y, x), manifest.patch, 1.0):
            yield np.ascontiguousarray(box.cut(prepared.image)[None])


def activation_ranges(onnx: bytes, tiles: Iterable[FloatArray]) -> dict[str, ActivationRange]:
    """Run a network in float32 and return what every convolution that int8 rounds takes, by its name.

    Args:
        onnx: the float32 network.
        tiles: (1, channels, z, y, x) each.
    """
    import openvino
    from openvino import opset13 as ops

    core = open_core()
    model = core.read_model(onnx)
    sum_norms_by_plane(model)
    nodes = quantisable(model)
    everywhere = np.array([0, 2, 3, 4])
    outputs = [
        reduce(node.input_value(0), everywhere, False) for node in nodes for reduce in (ops.reduce_min, ops.reduce_max)
    ]
    observer = openvino.Model(outputs, model.get_parameters())
    compiled = core.compile_model(observer, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    low: list[FloatArray] = []
    high: list[FloatArray] = []
    for tile in tiles:
        extremes = [np.array(value) for value in compiled(tile).values()]
        low = [np.minimum(*pair) for pair in zip(low or extremes[::2], extremes[::2], strict=True)]
        high = [np.maximum(*pair) for pair in zip(high or extremes[1::2], extremes[1::2], strict=True)]
    if not low:
        raise UsageError("every voxel of the cases to calibrate with is 0; name others")
    if not all(np.isfinite(values).all() for values in (*low, *high)):
        raise BundleError("the network gives NaN or infinity on a case to calibrate with; name others")
    return {
        node.get_friendly_name(): ActivationRange(tuple(lowest.tolist()), tuple(highest.tolist()))
        for node, lowest, highest in zip(nodes, low, high, strict=True)
    }


def _agreements(rounded: Segmenter, cases: Sequence[Sequence[Path]], report: Callable[[str], None]) -> Iterator[Parity]:
    if not cases:
        return
    exact = Segmenter.load(rounded.bundle, RunOptions(device="cpu", precision="fp32"))
    report(HEADING)
    for channels in cases:
        volumes = [read_volume(path, plausible=exact.rules.plausible) for path in channels]
        agreement = compare(exact.segment(volumes).mask, rounded.segment(volumes).mask)
        name = case_name(channels[0])
        report(
            f"{name:<28} {agreement.voxel_agreement:>12.5%} {agreement.dice:>9.6f} {agreement.foreground_voxels:>11}"
        )
        yield Parity(
            backend="openvino",
            precision=PRECISION,
            reference="openvino fp32",
            scope="case",
            subject=name,
            **msgspec.structs.asdict(agreement),
        )
