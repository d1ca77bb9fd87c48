"""Converts a model folder in a place aside, runs and compares the result, and only then makes it the bundle."""

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path

import msgspec
from torch import nn

from flare_export.bundle.place import bundle_at, new_bundle
from flare_export.errors import DisagreementError, ModelError
from flare_export.graph.fp16_graph import to_fp16
from flare_export.graph.onnx_graph import opset_of, to_onnx
from flare_export.graph.plain_layers import make_plain
from flare_export.parity.case_parity import HEADING, CaseParity, measure_case_parity
from flare_export.parity.network_parity import cpu_engines, measure_network_parity
from flare_export.source import plans as plan_rules
from flare_export.source.architecture import describe
from flare_export.source.dataset import labels
from flare_export.source.model_folder import ModelFolder
from flare_export.source.schema import checked
from flare_runtime.compute.arrays import Shape3
from flare_runtime.compute.available_memory import available_bytes
from flare_runtime.errors import BundleError, OutputError
from flare_runtime.files.naming import visible
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle
from flare_runtime.model.manifest import (
    SCHEMA_VERSION,
    BundleFile,
    Manifest,
    NetworkInfo,
    PostprocessingStep,
    PreviousStage,
    Provenance,
    contradictions,
    encode_manifest,
)
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter

MODEL_CARD_NAME = "MODEL_CARD.md"
# What --verify demands of float32: this Dice, or else no voxel that differs where nnU-Net was decided by more than a
# few steps, as each of its own additions in float16 may be off by one. ONNX Runtime sums the voxels of a norm in
# float32 and one after the other, which shows on large patches.
MIN_CASE_DICE = {"openvino": 0.9995, "onnxruntime": 0.995}
MAX_MARGIN_STEPS = 8.0


@dataclass(frozen=True)
class Naming:
    """What a person says of the model: its name, its licence, its model card (Markdown), what users are to be told.

    `orientation` is where the axes x, y, z of the training's images pointed, as they were stored, such as LPS.
    """

    name: str | None = None
    licence: str = "unspecified"
    model_card: Path | None = None
    caution: str | None = None
    orientation: str | None = None


def export_bundle(
    folder: ModelFolder,
    output: Path,
    naming: Naming,
    verify: Sequence[Sequence[Path]] = (),
    report: Callable[[str], None] = lambda _line: None,
    *,
    postprocessing: Sequence[PostprocessingStep] = (),
    force: bool = False,
) -> tuple[Bundle, list[CaseParity]]:
    """Write the bundle of a model folder to `output`, replacing a bundle that is there.

    Args:
        folder: the nnU-Net model.
        output: the bundle's folder.
        naming: what the manifest says of it.
        verify: cases, each as its channels' files, to compare with nnU-Net's own predictor.
        report: takes each comparison as a line, as soon as it is made, also those of an export that is then refused.
        postprocessing: what flare-infer is to do with the masks; nnU-Net's predictor does nothing, so that cases are
            compared without it.
        force: also replace a bundle that holds what the new one will lack.

    Raises:
        ModelError: where the model cannot be exported.
        DisagreementError: where the result does not agree; nothing is left behind.
        OutputError: where `output` is something else than a bundle, holds what would be lost, or cannot be written.
    """
    place = output.absolute()
    before = bundle_at(place)
    if before is not None and not force:
        _check_losses(output, before, naming, verify)
    manifest = make_manifest(folder, _described(folder), naming, postprocessing)
    networks = [[stage.network(checkpoint) for checkpoint in stage.checkpoints] for stage in folder.stages]
    with new_bundle(place) as aside:
        _write(folder, msgspec.structs.replace(manifest, postprocessing=()), networks, aside, naming.model_card)
        try:
            measured = _with_patch_parity(Bundle.open(aside), networks)
        except BundleError as error:
            raise ModelError(f"the model cannot be a bundle: {error}") from error
        cases = _verify(folder, aside, verify, report)
        records = (*measured.parity, *(case.record for case in cases))
        whole = msgspec.structs.replace(measured, parity=records, postprocessing=manifest.postprocessing)
        (aside / MANIFEST_NAME).write_bytes(encode_manifest(whole))
    return Bundle.open(output), cases


def _check_losses(output: Path, before: Manifest, naming: Naming, verify: Sequence[Sequence[Path]]) -> None:
    """Refuse to replace a bundle by one that lacks what somebody measured, made or wrote for it."""
    roles = {file.role for file in before.files}
    losses = {
        "how it agrees on whole cases (--verify)": not verify and any(one.scope == "case" for one in before.parity),
        "what int8 needs (flare-export int8)": "activations" in roles,
        "its model card (--model-card)": naming.model_card is None and "model_card" in roles,
        "its caution (--caution)": naming.caution is None and before.caution is not None,
    }
    if lost := [what for what, is_lost in losses.items() if is_lost]:
        raise OutputError(
            f"{output}: the new bundle would lack {' and '.join(lost)}; choose another output, or --force to go on"
        )


def _described(folder: ModelFolder) -> NetworkInfo:
    architecture, slices = folder.configuration["architecture"], folder.dimensions == 2
    built = None if folder.builder is None else folder.untrained()
    info = describe(architecture, folder.inputs, folder.outputs, folder.patch, slices=slices, network=built)
    _check_memory(info, folder.patch)
    return info


def _check_memory(info: NetworkInfo, patch: Shape3) -> None:
    """Refuse a patch that cannot be run here: its first convolution alone has two such tensors in memory."""
    needed, available = 2 * 4 * info.features[0] * prod(patch), available_bytes()
    if available is not None and needed > available:
        raise ModelError(
            f"a patch of {patch} takes more than {needed >> 20:,} MiB, {available >> 20:,} MiB are to be had; the "
            "bundle has to be tried out on a larger machine"
        )


def _write(
    folder: ModelFolder,
    manifest: Manifest,
    networks: Sequence[Sequence[nn.Module]],
    target: Path,
    model_card: Path | None,
) -> None:
    """Write networks, of every stage, model card and manifest."""
    files = _write_networks(folder, manifest.name, networks[-1], target)
    if model_card is not None:
        files.append(_add(target, MODEL_CARD_NAME, model_card.read_bytes(), "model_card"))
    manifest = msgspec.structs.replace(manifest, files=tuple(files))
    if folder.previous and manifest.previous_stage:
        model = manifest.previous_stage.model
        files = _write_networks(folder.previous, model.name, networks[0], target, "previous_stage.")
        manifest = _with_previous(manifest, msgspec.structs.replace(model, files=tuple(files)))
    (target / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


def _with_previous(manifest: Manifest, model: Manifest) -> Manifest:
    """Return a cascade's manifest with another model as its previous stage."""
    assert manifest.previous_stage is not None
    stage = msgspec.structs.replace(manifest.previous_stage, model=model)
    return msgspec.structs.replace(manifest, previous_stage=stage)


def _with_patch_parity(bundle: Bundle, networks: Sequence[Sequence[nn.Module]]) -> Manifest:
    """Return a bundle's manifest with how the networks of every stage agree on a patch."""
    parity = tuple(measure_network_parity(bundle, networks[-1]))
    manifest = msgspec.structs.replace(bundle.manifest, parity=parity)
    stage = bundle.previous_stage
    return manifest if stage is None else _with_previous(manifest, _with_patch_parity(stage, networks[:-1]))


def _write_networks(
    folder: ModelFolder, name: str, networks: Sequence[nn.Module], target: Path, prefix: str = ""
) -> list[BundleFile]:
    files: list[BundleFile] = []
    for checkpoint, network in zip(folder.checkpoints, networks, strict=True):
        lean = deepcopy(network)  # the original stays what the result is compared with
        make_plain(lean)
        metadata = {"flare-lite": name, "labels": ",".join(folder.dataset["labels"]), "fold": checkpoint.fold}
        data = to_onnx(lean, folder.inputs, folder.patch, metadata)
        end = ".onnx" if len(networks) == 1 else f".fold_{checkpoint.fold}.onnx"
        for precision, file, content in (
            ("fp32", f"{prefix}network{end}", data),
            ("fp16", f"{prefix}network.fp16{end}", to_fp16(data)),
        ):
            entry = _add(target, file, content, "network")
            files.append(
                msgspec.structs.replace(entry, precision=precision, opset=opset_of(lean), fold=checkpoint.fold)
            )
    return files


def _add(target: Path, name: str, data: bytes, role: str) -> BundleFile:
    (target / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return msgspec.convert({"name": name, "role": role, "sha256": digest, "bytes": len(data)}, BundleFile)


def make_manifest(
    folder: ModelFolder, info: NetworkInfo, naming: Naming, postprocessing: Sequence[PostprocessingStep] = ()
) -> Manifest:
    """Return what the runtime has to know of a model, without its files.

    Raises:
        ModelError: where the plan or the data set do not say it, or it is more than the runtime supports.
    """
    structures, regions = labels(folder.dataset)
    configuration, first = folder.configuration, folder.checkpoints[0]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=visible(naming.name or f"{folder.plans.get('dataset_name', folder.path.name)} {first.configuration}"),
        licence=naming.licence,
        caution=naming.caution,
        labels=structures,
        regions_class_order=regions,
        channels=plan_rules.channels(folder.plans, configuration, folder.dataset),
        reader=plan_rules.reader(folder.plans),
        training_orientation=naming.orientation,
        dimensions=folder.dimensions,
        spacing_mm=plan_rules.grid_spacing_mm(folder.plans, configuration),
        patch=folder.patch,
        step=0.5,
        transpose_forward=tuple(folder.plans["transpose_forward"]),
        image_resampling=plan_rules.image_resampling(configuration),
        logits_resampling=plan_rules.logits_resampling(configuration),
        postprocessing=tuple(postprocessing),
        mirror_axes=folder.mirror_axes,
        network=info,
        files=(),
        previous_stage=_previous_stage(folder, naming),
        provenance=Provenance(
            checkpoints={checkpoint.fold: checkpoint.sha256 for checkpoint in folder.checkpoints},
            dataset=visible(folder.plans.get("dataset_name", "")),
            trainer=first.trainer,
            configuration=first.configuration,
            epochs=tuple(checkpoint.epochs for checkpoint in folder.checkpoints),
            exporter={package: version(package) for package in ("flare-lite", "torch", "onnx", "openvino")},
        ),
    )
    checked(msgspec.to_builtins(manifest), Manifest, "the model goes into no bundle")
    for problem in contradictions(manifest):
        raise ModelError(f"the model goes into no bundle: {problem}")
    return manifest


def _previous_stage(folder: ModelFolder, naming: Naming) -> PreviousStage | None:
    """Return a cascade's previous stage, whose mask nnU-Net takes without postprocessing."""
    if folder.previous is None:
        return None
    model = make_manifest(folder.previous, _described(folder.previous), Naming(licence=naming.licence))
    return PreviousStage(model=model, mask_resampling=plan_rules.mask_resampling(folder.configuration))


def _verify(
    folder: ModelFolder, bundle: Path, cases: Sequence[Sequence[Path]], report: Callable[[str], None]
) -> list[CaseParity]:
    if not cases:
        return []
    # nnU-Net takes any intensity and spacing, and is what the masks are compared with.
    segmenters = [
        Segmenter.load(bundle, RunOptions("cpu", backend, precision, any_intensity=True, any_spacing=True))
        for backend, precision in cpu_engines()
    ]
    report("Against nnU-Net's own predictor (no TTA, step 0.5):")
    report(HEADING)
    results = []
    for result in measure_case_parity(folder, segmenters, cases):
        report(result.row)
        results.append(result)
    for result in results:
        within_rounding = result.margin_steps <= MAX_MARGIN_STEPS
        wanted = MIN_CASE_DICE[result.backend]
        if result.precision == "fp32" and result.agreement.dice < wanted and not within_rounding:
            raise DisagreementError(
                f"{result.case}: {result.backend} has Dice {result.agreement.dice:.6f} with nnU-Net's own mask in "
                f"float32, at least {wanted} is demanded; no bundle was written"
            )
    return results
