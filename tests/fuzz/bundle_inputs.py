"""Bundles made to be wrong: manifest, networks, ranges and archive changed at random, hashes mended afterwards."""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.fuzz.json_inputs import odd_json
from tests.fuzz.nifti_inputs import damaged

Files = dict[str, bytes]
_MANIFEST, _RANGES = "manifest.json", "network.int8.json"
_ODD_NUMBERS = (0, 1, 2, 3, 5, 16, 255, 1000, 10**6, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**63))
_ODD_TEXTS = (b"", b"tiles", b"logits", b"Loop", b"Constant", b"Reshape", b"com.microsoft", b"/etc/passwd", b"\x1b[2J")
_ODD_TEXTS += (b"\xff\xfe", b"location", b"SAME_UPPER", b"x" * 1000)
_ODD_FLOATS = (0.0, 1.0, -1.0, 1e-30, 3e38, float("nan"), float("inf"), float("-inf"))


def with_ranges(files: Files, ranges: bytes) -> Files:
    """Return the files of a bundle that can run in int8 as well."""
    manifest = json.loads(files[_MANIFEST])
    fold = manifest["files"][0]["fold"]
    manifest["files"].append({"name": _RANGES, "role": "activations", "precision": "int8", "fold": fold})
    files = {**files, _MANIFEST: json.dumps(manifest).encode(), _RANGES: ranges}
    return {**files, _MANIFEST: _with_hashes(files)}


def write_bundle(files: Files, folder: Path) -> Path:
    """Write a bundle as a folder and return it."""
    target = folder / "bundle"
    target.mkdir()
    for name, data in files.items():
        (target / name).write_bytes(data)
    return target


def write_odd_bundle(rng: Random, sound: Files, folder: Path) -> Path:
    """Write one bundle, a folder or a zip, and return it."""
    files = dict(sound)
    changed = rng.choice(("manifest", "manifest", "network", "network", "network", "ranges", "bytes", "nothing"))
    if changed == "network":
        name = rng.choice([name for name in files if name.endswith(".onnx")])
        files[name] = _network(rng, files[name])
    elif changed == "ranges":
        files[_RANGES] = odd_json(rng, json.loads(files[_RANGES]))
    if changed == "manifest":
        files[_MANIFEST] = odd_json(rng, json.loads(files[_MANIFEST]))
    elif changed in ("network", "ranges"):
        files[_MANIFEST] = _with_hashes(files)
    elif changed == "bytes":
        name = rng.choice(list(files))
        files[name] = damaged(rng, files[name])
    if rng.random() < (0.8 if changed == "nothing" else 0.2):
        return _zip(rng, files, folder / "bundle.zip")
    return write_bundle(files, folder)


def _with_hashes(files: Files) -> bytes:
    manifest = json.loads(files[_MANIFEST])
    for file in manifest["files"]:
        file["bytes"] = max(len(files[file["name"]]), 1)
        file["sha256"] = hashlib.sha256(files[file["name"]]).hexdigest()
    return json.dumps(manifest).encode()


def _network(rng: Random, data: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.3:
        for _ in range(rng.choice((1, 1, 2, 5))):
            data = damaged(rng, data)
        return data
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice((_change_field, _change_field, _change_field, _change_attribute, _rewire, _point_outside))(
            rng, model
        )
    changed: bytes = model.SerializeToString()
    return changed


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(part)


def _change_field(rng: Random, model: Any) -> None:
    """Clear, replace, repeat or add any field of any message."""
    message = rng.choice(list(_messages(model)))
    present = [descriptor for descriptor, _ in message.ListFields()]
    descriptor = rng.choice(present if present and rng.random() < 0.8 else list(message.DESCRIPTOR.fields))
    value = getattr(message, descriptor.name)
    repeated = hasattr(value, "extend")
    if rng.random() < 0.2:
        message.ClearField(descriptor.name)
    elif descriptor.type == descriptor.TYPE_MESSAGE:
        if not repeated:
            value.SetInParent()
        elif len(value) and rng.random() < 0.8:
            value.append(rng.choice(list(value))) if rng.random() < 0.5 else value.pop(rng.randrange(len(value)))
        else:
            value.add()
    else:
        odd = _odd_value(rng, descriptor, getattr(message, descriptor.name))
        if repeated and len(value) and rng.random() < 0.7:
            value[rng.randrange(len(value))] = odd
        elif repeated:
            value.append(odd)
        else:
            setattr(message, descriptor.name, odd)


def _odd_value(rng: Random, descriptor: Any, value: Any) -> Any:
    if descriptor.cpp_type in (descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE):
        return rng.choice(_ODD_FLOATS)
    if descriptor.type == descriptor.TYPE_BYTES:
        return rng.choice((b"", b"\0" * 7, value if isinstance(value, bytes) else b"x", rng.randbytes(16)))
    if descriptor.type == descriptor.TYPE_STRING:
        return rng.choice(_ODD_TEXTS).decode("utf-8", "replace")
    if descriptor.type == descriptor.TYPE_ENUM:
        return rng.choice(descriptor.enum_type.values).number
    number = rng.choice(_ODD_NUMBERS)
    limit = 2**31 if descriptor.cpp_type == descriptor.CPPTYPE_INT32 else 2**63
    lowest = 0 if descriptor.cpp_type == descriptor.CPPTYPE_UINT64 else -limit
    return max(lowest, min(number, limit - 1))


def _change_attribute(rng: Random, model: Any) -> None:
    """Set a number that decides a layer's shape."""
    attributes = [found for node in model.graph.node for found in node.attribute if found.ints or found.type == 2]
    if not attributes:
        return
    found = rng.choice(attributes)
    if found.ints:
        found.ints[rng.randrange(len(found.ints))] = rng.choice(_ODD_NUMBERS)
    else:
        found.i = rng.choice(_ODD_NUMBERS)


def _rewire(rng: Random, model: Any) -> None:
    """Have a layer take or give another's tensor, or be another layer."""
    if not model.graph.node:
        return
    node, other = rng.choice(model.graph.node), rng.choice(model.graph.node)
    kind = rng.random()
    if kind < 0.4 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*other.input, *other.output, "tiles", "nowhere", ""])
    elif kind < 0.6 and node.output:
        node.output[0] = rng.choice([*other.output, *other.input, ""])
    elif kind < 0.8:
        node.op_type = other.op_type
    else:
        node.op_type = rng.choice(("Cast", "AveragePool", "Add", "Identity", "Concat", "Relu"))


def _point_outside(rng: Random, model: Any) -> None:
    tensor = rng.choice(model.graph.initializer) if model.graph.initializer else model.graph.initializer.add()
    place = rng.choice(("/etc/passwd", "../network.onnx", "network.onnx", "/dev/zero", ""))
    tensor.external_data.add(key="location", value=place)
    if rng.random() < 0.8:
        tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.5:
        node = helper.make_node("Constant", [], ["constant"], value=tensor)
        model.graph.node.append(node)


def _zip(rng: Random, files: Files, target: Path) -> Path:
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    entries = [(name, data) for name, data in files.items()]
    if rng.random() < 0.1:
        entries.append(rng.choice(entries))
    if rng.random() < 0.05:
        entries += [(f"{number}", b"") for number in range(rng.choice((10, 3000)))]
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as archive:
        warnings.simplefilter("ignore")  # of two files of one name
        for name, data in entries:
            kind = rng.choice(kinds) if data else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, kind)
        archive.comment = rng.randbytes(rng.choice((0, 0, 10, 300)))
    data = target.read_bytes()
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: data,
        lambda: damaged(rng, data),
        lambda: _damaged_list(rng, data),
        lambda: rng.randbytes(rng.choice((0, 4, 100))) + data,
    )
    target.write_bytes(rng.choice(changes)())
    return target


def _damaged_list(rng: Random, data: bytes) -> bytes:
    """Change the archive's list of files, which decides what is read from where."""
    start = data.rfind(b"PK\1\2") if rng.random() < 0.7 else data.rfind(b"PK\5\6")
    place = start + rng.randrange(4, 46)
    number = rng.choice((bytes(2), b"\xff\xff", b"\xff\xff\xff\xff", rng.randbytes(2), b"\x0e\0", b"\x01\0"))
    return data[:place] + number + data[place + len(number) :]
