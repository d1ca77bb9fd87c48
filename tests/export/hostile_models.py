"""Model folders that nobody should send: each function makes one fault in a sound folder."""

import json
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.model_folders import CONFIGURATION

Fault = Callable[[Path], None]
CHECKPOINT = Path("fold_0", "checkpoint_final.pth")
_REMOVED: Any = object()


class Executes:
    """Unpickling it runs a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _set(content: Any, path: str, value: Any) -> None:
    *parents, last = (int(key) if key.isdigit() and isinstance(content, list) else key for key in path.split("/"))
    for key in parents:
        content = content[int(key) if isinstance(content, list) else key]
    if value is _REMOVED:
        del content[last]
    elif isinstance(content, list):
        content[int(last)] = value
    else:
        content[last] = value


def json_fault(name: str, path: str, value: Any) -> Fault:
    """Set one entry of a JSON file; `path` is its keys with / between them."""

    def apply(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text(encoding="utf-8"))
        _set(content, path, value)
        file.write_text(json.dumps(content), encoding="utf-8")

    return apply


def _plan(path: str, value: Any) -> Fault:
    return json_fault("plans.json", path, value)


def _configured(path: str, value: Any) -> Fault:
    return _plan(f"configurations/{CONFIGURATION}/{path}", value)


def _network(path: str, value: Any) -> Fault:
    return _configured(f"architecture/arch_kwargs/{path}", value)


def _dataset(path: str, value: Any) -> Fault:
    return json_fault("dataset.json", path, value)


def _bytes(name: str | Path, data: bytes) -> Fault:
    return lambda folder: (folder / name).write_bytes(data) and None


def _replaced(name: str | Path, make: Callable[[Path], Any]) -> Fault:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return apply


def _old_style(folder: Path) -> None:
    _configured("architecture", _REMOVED)(folder)
    old = {"UNet_class_name": 7, "UNet_base_num_features": "4", "unet_max_num_features": None}
    old |= {"n_conv_per_stage_encoder": 3, "n_conv_per_stage_decoder": {}, "pool_op_kernel_sizes": [[1]]}
    for key, value in (old | {"conv_kernel_sizes": "3"}).items():
        _configured(key, value)(folder)


def _raw_plan(path: str, text: str) -> Fault:
    """Set an entry to what json.dumps would not write."""

    def apply(folder: Path) -> None:
        _configured(path, "@here@")(folder)
        file = folder / "plans.json"
        file.write_text(file.read_text(encoding="utf-8").replace('"@here@"', text), encoding="utf-8")

    return apply


PLANS: dict[str, Fault] = {
    "empty plans": _bytes("plans.json", b""),
    "plans are a list": _bytes("plans.json", b"[]"),
    "plans are a number": _bytes("plans.json", b"1"),
    "plans are not UTF-8": _bytes("plans.json", b'{"a": "\xff"}'),
    "plans with a byte order mark": _bytes("plans.json", b"\xef\xbb\xbf{}"),
    "plans in UTF-16": _bytes("plans.json", '{"configurations": {}}'.encode("utf-16")),
    "plans are cut off": lambda f: os.truncate(f / "plans.json", 300),
    "plans are nested deeply": _bytes("plans.json", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "an unused entry is nested deeply": _raw_plan("extra", "[" * 500 + "]" * 500),
    "plans are huge": _bytes("plans.json", b"[" + b"0," * (9 << 20) + b"0]"),
    "an integer of 10,000 digits": _raw_plan("batch_size", "9" * 10_000),
    "half a surrogate": _plan("dataset_name", "\ud800"),
    "plans are missing": lambda f: (f / "plans.json").unlink(),
    "plans are a folder": _replaced("plans.json", Path.mkdir),
    "plans are a pipe": _replaced("plans.json", os.mkfifo),
    "plans link to themselves": _replaced("plans.json", lambda path: path.symlink_to(path)),
    "plans link to a device": _replaced("plans.json", lambda path: path.symlink_to("/dev/zero")),
    "no configurations": _plan("configurations", _REMOVED),
    "configurations are a list": _plan("configurations", []),
    "a configuration is a text": _plan(f"configurations/{CONFIGURATION}", "x"),
    "no such configuration": _plan("configurations", {}),
    "a configuration inherits from itself": _configured("inherits_from", CONFIGURATION),
    "a configuration inherits from a number": _configured("inherits_from", 7),
    "a configuration inherits from a list": _configured("inherits_from", [CONFIGURATION]),
    "no transpose": _plan("transpose_forward", _REMOVED),
    "a transpose of two axes": _plan("transpose_forward", [0, 1]),
    "an axis twice": _plan("transpose_forward", [0, 1, 1]),
    "an axis beyond": _plan("transpose_forward", [0, 1, 3]),
    "an axis as text": _plan("transpose_forward", ["0", "1", "2"]),
    "a data set's name of 9,999 letters": _plan("dataset_name", "x" * 9999),
    "the data set's name is a number": _plan("dataset_name", 5),
    "the label manager is a list": _plan("label_manager", ["LabelManager"]),
    "the reader is a mapping": _plan("image_reader_writer", {"a": 1}),
    "statistics are a list": _plan("foreground_intensity_properties_per_channel", [1]),
    "no statistics of the channel": _plan("foreground_intensity_properties_per_channel", {"1": {}}),
    "statistics are null": _plan("foreground_intensity_properties_per_channel/0", 3),
    "a mean as text": _plan("foreground_intensity_properties_per_channel/0/mean", "40"),
    "a mean of NaN": _plan("foreground_intensity_properties_per_channel/0/mean", float("nan")),
    "an infinite percentile": _plan("foreground_intensity_properties_per_channel/0/percentile_99_5", float("inf")),
    "percentiles the wrong way round": _plan("foreground_intensity_properties_per_channel/0/percentile_99_5", -700),
    "a negative deviation": _plan("foreground_intensity_properties_per_channel/0/std", -1),
    "no patch": _configured("patch_size", _REMOVED),
    "the patch is a number": _configured("patch_size", 16),
    "the patch is a text": _configured("patch_size", "16 16 16"),
    "a patch of two axes": _configured("patch_size", [16, 16]),
    "a patch of four axes": _configured("patch_size", [16, 16, 16, 16]),
    "a negative patch": _configured("patch_size", [-16, 16, 16]),
    "a patch of zero": _configured("patch_size", [0, 16, 16]),
    "a patch of 1e9": _configured("patch_size", [10**9] * 3),
    "a patch of 2 ** 33 voxels": _configured("patch_size", [2048] * 3),
    "a patch that no memory holds": lambda f: (
        _configured("patch_size", [512] * 3)(f) or _network("features_per_stage", [4096, 4096])(f)
    ),
    "a patch of half voxels": _configured("patch_size", [16.5, 16, 16]),
    "a patch that the strides do not divide": _configured("patch_size", [17, 16, 16]),
    "a patch smaller than the strides": _configured("patch_size", [1, 1, 1]),
    "a patch of NaN": _configured("patch_size", [float("nan"), 16, 16]),
    "a spacing of zero": _configured("spacing", [0, 1, 1]),
    "a negative spacing": _configured("spacing", [-1, 1, 1]),
    "an infinite spacing": _raw_plan("spacing", "[1e400, 1, 1]"),
    "a spacing of NaN": _configured("spacing", [float("nan"), 1, 1]),
    "a spacing as text": _configured("spacing", ["1", "1", "1"]),
    "a spacing of null": _configured("spacing", None),
    "the schemes are a text": _configured("normalization_schemes", "CTNormalization"),
    "fewer schemes than channels": _configured("normalization_schemes", []),
    "a scheme is a number": _configured("normalization_schemes", [1]),
    "an unknown scheme": _configured("normalization_schemes", ["os.system"]),
    "masks are numbers": _configured("use_mask_for_norm", [0.5]),
    "no masks": _configured("use_mask_for_norm", _REMOVED),
    "a resampling function is a list": _configured("resampling_fn_data", []),
    "an unknown resampling function": _configured("resampling_fn_probabilities", "os.system"),
    "resampling options are a list": _configured("resampling_fn_data_kwargs", []),
    "a spline order of 9": _configured("resampling_fn_data_kwargs/order", 9),
    "a spline order as text": _configured("resampling_fn_data_kwargs/order", "3"),
    "logits resampled by splines": _configured("resampling_fn_probabilities_kwargs/order", 3),
    "force_separate_z as text": _configured("resampling_fn_data_kwargs/force_separate_z", "yes"),
    "the preprocessor is a number": _configured("preprocessor_name", 1),
    "the previous stage is a list": _configured("previous_stage", ["3d_lowres"]),
    "old-style keys of wrong types": _old_style,
}
NETWORKS: dict[str, Fault] = {
    "the architecture is null": _configured("architecture", None),
    "the architecture is a list": _configured("architecture", [1]),
    "an unknown class": _configured("architecture/network_class_name", "os.system"),
    "the class is null": _configured("architecture/network_class_name", None),
    "no arguments": _configured("architecture/arch_kwargs", _REMOVED),
    "nothing to import": _configured("architecture/_kw_requires_import", []),
    "a number to import": _configured("architecture/_kw_requires_import", ["n_stages"]),
    "imports are a number": _configured("architecture/_kw_requires_import", 3),
    "a million stages": _network("n_stages", 10**6),
    "no stages": _network("n_stages", 0),
    "stages as text": _network("n_stages", "2"),
    "a stage more than features": _network("n_stages", 3),
    "a single stage": _network("n_stages", 1),
    "features of another network": _network("features_per_stage", [8, 16]),
    "a thousand million features": _network("features_per_stage", [10**9, 10**9]),
    "2 ** 63 features": _network("features_per_stage", [1 << 63, 4]),
    "negative features": _network("features_per_stage", [-4, 8]),
    "features are null": _network("features_per_stage", None),
    "a kernel of two axes": _network("kernel_sizes", [[3, 3], [3, 3]]),
    "a kernel of 1e9": _network("kernel_sizes", [[10**9] * 3] * 2),
    "an even kernel": _network("kernel_sizes", [[2, 2, 2]] * 2),
    "a kernel of zero": _network("kernel_sizes", [[0, 0, 0]] * 2),
    "kernels as text": _network("kernel_sizes", "3"),
    "a stride of zero": _network("strides", [[1, 1, 1], [0, 0, 0]]),
    "a stride beyond the patch": _network("strides", [[1, 1, 1], [64, 64, 64]]),
    "strides are null": _network("strides", None),
    "a million convolutions": _network("n_conv_per_stage", [10**6, 1]),
    "no convolutions": _network("n_conv_per_stage", [0, 0]),
    "convolutions of another class": _network("n_blocks_per_stage", [1, 1]),
    "a 2D convolution": _network("conv_op", "torch.nn.modules.conv.Conv2d"),
    "a norm in the convolution's place": _network("conv_op", "torch.nn.InstanceNorm3d"),
    "a convolution in the norm's place": _network("norm_op", "torch.nn.Conv3d"),
    "no convolution": _network("conv_op", None),
    "the norm's options are a list": _network("norm_op_kwargs", [1, 2]),
    "an unknown option of the norm": _network("norm_op_kwargs", {"eps": 1e-5, "affine": True, "hook": 1}),
    "a norm whose eps is NaN": _network("norm_op_kwargs", {"eps": float("nan"), "affine": True}),
    "a norm that tracks": _network("norm_op_kwargs", {"eps": 1e-5, "affine": True, "track_running_stats": True}),
    "a dropout of 7": lambda f: (
        _network("dropout_op", "torch.nn.Dropout3d")(f) or _network("dropout_op_kwargs", {"p": 7})(f)
    ),
    "an unknown argument": _network("callback", "os.system"),
    "an argument that is given already": _network("input_channels", 5),
}
DATASETS: dict[str, Fault] = {
    "an empty data set": _bytes("dataset.json", b"{}"),
    "no data set": lambda f: (f / "dataset.json").unlink(),
    "the data set is a pipe": _replaced("dataset.json", os.mkfifo),
    "no labels": _dataset("labels", _REMOVED),
    "labels are a list": _dataset("labels", ["background", "lesion"]),
    "the background alone": _dataset("labels", {"background": 0}),
    "a label of null": _dataset("labels/lesion", None),
    "a label as a word": _dataset("labels/lesion", "one"),
    "a negative label": _dataset("labels/lesion", -1),
    "a label beyond 8 bits": _dataset("labels/lesion", 256),
    "a label of 1e400": _dataset("labels/lesion", float("inf")),
    "a label that leaves one out": _dataset("labels/lesion", 2),
    "a region of nothing": _dataset("labels/lesion", []),
    "a region of regions": _dataset("labels/lesion", [[1]]),
    "regions without an order": _dataset("labels/lesion", [1, 2]),
    "more labels than the network": _dataset("labels/other", 2),
    "300 labels": _dataset("labels", {str(value): value for value in range(300)}),
    "no channels": _dataset("channel_names", {}),
    "channels are a list": _dataset("channel_names", ["CT"]),
    "a channel is a number": _dataset("channel_names", {"0": 1}),
    "channels counted from 1": _dataset("channel_names", {"1": "CT"}),
    "channels named by words": _dataset("channel_names", {"zero": "CT"}),
    "a channel more than the plan": _dataset("channel_names", {"0": "CT", "1": "PET"}),
    "half a surrogate as a label": _dataset("labels", {"background": 0, "\udc00": 1}),
}


def checkpoint_fault(path: str, value: Any) -> Fault:
    """Set one entry of a checkpoint."""

    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        _set(content, path, value)
        torch.save(content, folder / CHECKPOINT)

    return apply


def _weight(change: Callable[[torch.Tensor], Any]) -> Fault:
    """Change the first weight."""

    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        weights = content["network_weights"]
        name = next(iter(weights))
        weights[name] = change(weights[name])
        torch.save(content, folder / CHECKPOINT)

    return apply


def _all_weights(change: Callable[[torch.Tensor], Any]) -> Fault:
    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        content["network_weights"] = {key: change(value) for key, value in content["network_weights"].items()}
        torch.save(content, folder / CHECKPOINT)

    return apply


def _prefixed(prefix: str) -> Fault:
    def apply(folder: Path) -> None:
        content = torch.load(folder / CHECKPOINT, weights_only=False)
        content["network_weights"] = {f"{prefix}{key}": value for key, value in content["network_weights"].items()}
        torch.save(content, folder / CHECKPOINT)

    return apply


def _whole(content: Any) -> Fault:
    return lambda folder: torch.save(content, folder / CHECKPOINT)


def _rewritten(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Fault:
    """Change the entries of the checkpoint's archive."""

    def apply(folder: Path) -> None:
        with zipfile.ZipFile(folder / CHECKPOINT) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(folder / CHECKPOINT, "w", compression) as archive:
            for name, data in entries.items():
                archive.writestr(name, change(name, data))

    return apply


def _pickle(change: Callable[[bytes], bytes]) -> Fault:
    return _rewritten(lambda name, data: change(data) if name.endswith("/data.pkl") else data)


def _twice(folder: Path) -> None:
    content = torch.load(folder / CHECKPOINT, weights_only=False)
    weights = content["network_weights"]
    weights |= {f"module.{key}": value for key, value in weights.items()}
    torch.save(content, folder / CHECKPOINT)


def _renamed_fold(name: str) -> Fault:
    return lambda folder: (folder / "fold_0").rename(folder / name) and None


def _other_fold(path: str, value: Any) -> Fault:
    def apply(folder: Path) -> None:
        shutil.copytree(folder / "fold_0", folder / "fold_1")
        checkpoint_fault(path, value)(folder)

    return apply


def _nested(depth: int) -> Any:
    content: Any = []
    for _ in range(depth):
        content = [content]
    return content


def _growing_text(times: int) -> bytes:
    """Return the pickle of a text that is written in hexadecimal, again and again."""
    encode, text = b"c_codecs\nencode\n", b"X\1\0\0\0a"
    first = encode + text + b"X\6\0\0\0latin1\x86R"
    return encode * times + first + b"X\3\0\0\0hex\x86R" * times


_MEMORY = 4 << 30

CHECKPOINTS: dict[str, Fault] = {
    "an empty checkpoint": _bytes(CHECKPOINT, b""),
    "a checkpoint of text": _bytes(CHECKPOINT, b"not a checkpoint"),
    "a plain pickle": _bytes(CHECKPOINT, pickle.dumps({"network_weights": {}})),
    "a zip of something else": _rewritten(lambda _name, _data: b""),
    "a checkpoint that is cut off": lambda f: os.truncate(f / CHECKPOINT, 9000),
    "a compressed checkpoint": _rewritten(lambda _name, data: data, zipfile.ZIP_DEFLATED),
    "a pickle of 66 MiB": _pickle(lambda data: data[:2] + b"N0" * (33 << 20) + data[2:]),
    "a pickle that ends early": _pickle(lambda data: data[:-20]),
    "an empty pickle": _pickle(lambda _data: b""),
    "weights larger than the file": _pickle(lambda data: data.replace(b"(K\x04K\x01", b"(J\xff\xff\xff\x7fK\x01")),
    "a checkpoint is a folder": _replaced(CHECKPOINT, Path.mkdir),
    "a checkpoint is a pipe": _replaced(CHECKPOINT, os.mkfifo),
    "a checkpoint links to itself": _replaced(CHECKPOINT, lambda path: path.symlink_to(path)),
    "a checkpoint links to a device": _replaced(CHECKPOINT, lambda path: path.symlink_to("/dev/zero")),
    "a checkpoint is a list": _whole([1, 2]),
    "a checkpoint is a tensor": _whole(torch.zeros(3)),
    "a checkpoint is null": _whole(None),
    "an empty mapping": _whole({}),
    "a checkpoint with numbers for keys": _whole({1: 2}),
    "os.system": checkpoint_fault("logging", Executes("touch executed")),
    "os.system as a whole": _whole(Executes("touch executed")),
    "eval": checkpoint_fault("logging", Calls(eval, "1")),
    "a bytearray of 4 GiB": checkpoint_fault("logging", Calls(bytearray, _MEMORY)),
    "a storage of 4 GiB": checkpoint_fault("logging", Calls(torch.UntypedStorage, _MEMORY)),
    "a tensor of 4 GiB": checkpoint_fault("logging", Calls(torch.FloatTensor, _MEMORY)),
    "a scalar of 2 GiB": checkpoint_fault("logging", Calls(torch.zeros(1).numpy().dtype.type.__base__, "f")),
    "a path": checkpoint_fault("logging", Path("/etc/passwd")),
    # Each tuple is twice the one before: PUT 0, GET 0, TUPLE2.
    "a key of 2 ** 60 parts": _pickle(lambda data: data[:2] + b"})" + b"q\0h\0\x86" * 60 + b"Ns0" + data[2:]),
    "a key of 100,000 tuples": _pickle(lambda data: data[:2] + b"})" + b"\x85" * 100_000 + b"Ns0" + data[2:]),
    "a text of 2 ** 40 letters": _pickle(lambda data: data[:2] + _growing_text(40) + b"0" + data[2:]),
    "no weights": checkpoint_fault("network_weights", _REMOVED),
    "weights are null": checkpoint_fault("network_weights", None),
    "weights are a list": checkpoint_fault("network_weights", [torch.zeros(1)]),
    "weights are a tensor": checkpoint_fault("network_weights", torch.zeros(3)),
    "weights are empty": checkpoint_fault("network_weights", OrderedDict()),
    "weights with numbers for keys": checkpoint_fault("network_weights", {1: torch.zeros(1)}),
    "no init_args": checkpoint_fault("init_args", _REMOVED),
    "init_args are null": checkpoint_fault("init_args", None),
    "no configuration": checkpoint_fault("init_args/configuration", _REMOVED),
    "the configuration is a list": checkpoint_fault("init_args/configuration", [CONFIGURATION]),
    "another configuration": checkpoint_fault("init_args/configuration", "2d"),
    "no trainer": checkpoint_fault("trainer_name", _REMOVED),
    "the trainer is a number": checkpoint_fault("trainer_name", 1),
    "half a surrogate as a key": checkpoint_fault("\ud800", 1),
    "half a surrogate in a weight's name": checkpoint_fault("network_weights/\udc00", torch.zeros(1)),
    "no epoch": checkpoint_fault("current_epoch", _REMOVED),
    "an epoch as a word": checkpoint_fault("current_epoch", "abc"),
    "a negative epoch": checkpoint_fault("current_epoch", -1),
    "an epoch of 1e30": checkpoint_fault("current_epoch", 10**30),
    "an epoch of NaN": checkpoint_fault("current_epoch", float("nan")),
    "an axis to mirror beyond the last": checkpoint_fault("inference_allowed_mirroring_axes", (0, 3)),
    "an axis to mirror twice": checkpoint_fault("inference_allowed_mirroring_axes", (0, 0)),
    "axes to mirror as text": checkpoint_fault("inference_allowed_mirroring_axes", "012"),
    "an axis to mirror as a number": checkpoint_fault("inference_allowed_mirroring_axes", 1),
    "deeply nested axes": checkpoint_fault("inference_allowed_mirroring_axes", _nested(300)),
    "a weight of another shape": _weight(lambda tensor: tensor[..., :1].clone()),
    "a weight is a list": _weight(lambda tensor: tensor.tolist()),
    "a weight is null": _weight(lambda tensor: None),
    "a weight of NaN": _weight(lambda tensor: tensor * float("nan")),
    "a weight of infinity": _weight(lambda tensor: tensor + float("inf")),
    "a weight beyond float32": _weight(lambda tensor: tensor.double() + 1e300),
    "a complex weight": _weight(lambda tensor: tensor.to(torch.complex64)),
    "a weight of whole numbers": _weight(lambda tensor: tensor.to(torch.int64)),
    "a weight of float8": _weight(lambda tensor: tensor.to(torch.float8_e4m3fn)),
    "a quantised weight": _weight(lambda tensor: torch.quantize_per_tensor(tensor.detach(), 0.1, 0, torch.qint8)),
    "a sparse weight": _weight(lambda tensor: tensor.detach().to_sparse()),
    "a weight on the meta device": _weight(lambda tensor: tensor.to("meta")),
    "a weight that is larger than its numbers": _weight(lambda tensor: torch.zeros(1).expand(1 << 20, 1 << 20)),
    "a weight that is missing": lambda f: checkpoint_fault("network_weights/decoder.seg_layers.0.bias", _REMOVED)(f),
    "a weight too many": checkpoint_fault("network_weights/other", torch.zeros(1)),
    "weights with and without a prefix": _twice,
    "no fold": _renamed_fold("folds"),
    "a fold that is none of nnU-Net's": _renamed_fold("fold_0_old"),
    "a fold with a new line": _renamed_fold("fold_0\n1"),
    "a fold that is no UTF-8": _renamed_fold(os.fsdecode(b"fold_\xff")),
    "folds of two configurations": _other_fold("init_args/configuration", "2d"),
    "folds that mirror differently": _other_fold("inference_allowed_mirroring_axes", None),
}
FAULTS = PLANS | NETWORKS | DATASETS | CHECKPOINTS
# What nnU-Net predicts with all the same.
ODDITIES: dict[str, Fault] = {
    "entries that nobody knows": lambda f: (
        _plan("of_another_program", {"a": [None, 1.5, "x"]})(f) or _configured("note", "y")(f) or _dataset("z", [])(f)
    ),
    "labels in quotes": _dataset("labels", {"background": "0", "lesion": "1"}),
    "labels as floating-point numbers": _dataset("labels", {"background": 0.0, "lesion": 1.0}),
    "a list of one label": _dataset("labels/lesion", [1]),
    "a modality beside channel_names": _dataset("modality", ["CT"]),
    "modality in place of channel_names": lambda f: (
        _dataset("modality", {"0": "CT"})(f) or _dataset("channel_names", _REMOVED)(f)
    ),
    "statistics that are not used are NaN": lambda f: (
        _configured("normalization_schemes", ["ZScoreNormalization"])(f)
        or _plan("foreground_intensity_properties_per_channel/0/mean", float("nan"))(f)
    ),
    "channels and labels of two lines": lambda f: (
        _dataset("channel_names/0", "C\nT")(f) or _dataset("labels", {"background": 0, "\x1b[31mlesion": 1})(f)
    ),
    "no data set's name": _plan("dataset_name", _REMOVED),
    "a data set's name of two lines": _plan("dataset_name", "a\nb"),
    "one kernel for all": _network("kernel_sizes", 3),
    "one number of convolutions for all": _network("n_conv_per_stage", 1),
    "weights of torch.compile": _prefixed("_orig_mod."),
    "weights of DataParallel and torch.compile": _prefixed("module._orig_mod."),
    "weights in float16": _all_weights(lambda tensor: tensor.half()),
    "weights in float64": _all_weights(lambda tensor: tensor.double()),
    "weights as parameters": _all_weights(torch.nn.Parameter),
    "no axes to mirror": checkpoint_fault("inference_allowed_mirroring_axes", _REMOVED),
    "half a surrogate as the trainer": checkpoint_fault("trainer_name", "\udc00"),
    "a link to the checkpoint": lambda f: (
        (f / "fold_0").rename(f / "elsewhere") and (f / "fold_0").symlink_to("elsewhere")
    ),
}
