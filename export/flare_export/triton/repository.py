"""Writes a bundle as a model repository: its networks for Triton's backends, and the whole pipeline in Python."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flare_export.bundle.place import entries_at, new_folder
from flare_export.triton.model_config import ModelConfig, Tensor
from flare_runtime import __version__
from flare_runtime.errors import BundleError, OutputError
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle
from flare_runtime.model.manifest import BundleFile, Manifest
from flare_runtime.model.onnx_graph import read_graph
from flare_runtime.model.onnx_shapes import computed

CONTENTS_NAME = "flare-triton.json"
KIND = "a Triton repository made by flare-export"
_LONGEST_NAME = 64
_VERSION = "1"
# Beside the model file of a version; Triton takes no notice of it.
_FLOAT16, _PLAN = "model.fp16.onnx", "model.plan"
_MODEL = Path(__file__).with_name("model.py")


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What lies at a repository's root: who wrote it, of which bundle, and the SHA-256 of every file by its path."""

    written_by: str
    bundle_sha256: str
    files: dict[str, str]


def export_repository(bundle: Bundle, output: Path) -> list[str]:
    """Write the repository of a bundle, replacing one that is there and unchanged, and return its models' names.

    Args:
        bundle: a folder.
        output: the repository's folder.

    Raises:
        OutputError: where the bundle is a zip, something else is at the place, or it cannot be written.
        BundleError: where the bundle is not whole.
    """
    if not bundle.path.is_dir():
        raise OutputError(f"{bundle.path}: is a zip; unpack it first")
    place = output.absolute()
    check_place(place)
    files = dict(_files(bundle))
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())}
    contents = Contents(written_by=f"flare-lite {__version__}", bundle_sha256=bundle.sha256, files=digests)
    files[CONTENTS_NAME] = msgspec.json.format(msgspec.json.encode(contents), indent=2) + b"\n"
    with new_folder(place, check_place) as fresh:
        for path, content in files.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
    return sorted({path.partition("/")[0] for path in digests})


def check_place(place: Path) -> None:
    """Refuse a place where something is that is no repository of ours, or is not as it was written.

    Raises:
        OutputError: naming the first such file.
    """
    if not entries_at(place, KIND):
        return
    try:
        listed = msgspec.json.decode((place / CONTENTS_NAME).read_bytes(), type=Contents).files
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OutputError(f"{place}: exists and is not {KIND}; choose another output") from error
    for path in _walk(place):
        name = path.relative_to(place).as_posix()
        if name != CONTENTS_NAME and (path.is_symlink() or listed.get(name) != _digest(path)):
            raise OutputError(f"{path}: is not as flare-export wrote it; move it, or choose another output")


def _walk(place: Path) -> Iterator[Path]:
    """Yield the files below a folder but the bytecode that Python makes of a model when it is served."""
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in (*sorted(names), *(one for one in folders if Path(folder, one).is_symlink())):
            yield Path(folder, name)


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _files(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a repository, each with its path in it."""
    name = _model_name(bundle.manifest)
    yield f"{name}/config.pbtxt", _pipeline_config(name, bundle.manifest).encode().encode()
    yield f"{name}/{_VERSION}/model.py", _MODEL.read_bytes()
    manifest = (bundle.path / MANIFEST_NAME).read_bytes()
    if hashlib.sha256(manifest).hexdigest() != bundle.sha256:
        raise BundleError(f"{bundle.path.name}/{MANIFEST_NAME}: is being changed; try again")
    yield f"{name}/{_VERSION}/bundle/{MANIFEST_NAME}", manifest
    for file in bundle.manifest.all_files:
        yield f"{name}/{_VERSION}/bundle/{file.name}", bundle.read(file)
    for stage in bundle.stages:
        of_stage = name if stage is bundle else f"{name}_previous_stage"
        halves = {file.fold: file for file in stage.networks("fp16")}
        for file in stage.networks("fp32"):
            fold = f"_fold_{_slug(str(file.fold))}" if bundle.folds > 1 else ""
            yield from _network_files(stage, f"{of_stage}_network{fold}", file, halves.get(file.fold))


def _network_files(
    bundle: Bundle, name: str, network: BundleFile, half: BundleFile | None
) -> Iterator[tuple[str, bytes]]:
    """Yield the files of one network: ONNX, and what a TensorRT plan is built from on the machine that runs it."""
    content = bundle.read_network(network)
    graph = read_graph(content)
    tensors = computed(graph)
    inputs = [Tensor(end, "TYPE_FP32", shape) for end, shape in graph.inputs.items()]
    outputs = [Tensor(end, "TYPE_FP32", tensors[end].shape) for end in graph.outputs]
    about = f"The network of {bundle.manifest.name}: one tile of a prepared scan in, its logits out."
    config = ModelConfig(name, "onnxruntime", "model.onnx", inputs, outputs, comment=[about])
    yield f"{name}/config.pbtxt", config.encode().encode()
    yield f"{name}/{_VERSION}/model.onnx", content
    if half is None:
        return
    how = [
        about,
        f"Needs {_VERSION}/{_PLAN}, which only runs on the kind of GPU and version of TensorRT that it was built with.",
        "Build it in the server's own container, in this model's folder:",
        f"  trtexec --onnx={_VERSION}/{_FLOAT16} --stronglyTyped --saveEngine={_VERSION}/{_PLAN}",
        "Then start the server with --model-config-name=tensorrt, which takes this configuration.",
    ]
    plan = ModelConfig(name, "tensorrt", _PLAN, inputs, outputs, kind="KIND_GPU", comment=how)
    yield f"{name}/configs/tensorrt.pbtxt", plan.encode().encode()
    yield f"{name}/{_VERSION}/{_FLOAT16}", bundle.read_network(half)


def _pipeline_config(name: str, manifest: Manifest) -> ModelConfig:
    channels = len(manifest.channels)
    return ModelConfig(
        name,
        "python",
        "model.py",
        [
            Tensor("scan", "TYPE_STRING", [channels], optional=True),
            Tensor("voxels", "TYPE_FP32", [channels, -1, -1, -1], optional=True),
            Tensor("affine", "TYPE_FP64", [4, 4], optional=True),
        ],
        [Tensor("mask", "TYPE_UINT8", [-1, -1, -1]), Tensor("mask_nifti", "TYPE_STRING", [1])],
        comment=[f"{manifest.name}: scan in, mask out. Every instance loads the network once more."],
    )


def _model_name(manifest: Manifest) -> str:
    return _slug(manifest.name)[:_LONGEST_NAME] or "flare"


def _slug(text: str) -> str:
    """Return what a folder, a URL and a configuration take without quoting."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
