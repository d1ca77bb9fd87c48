"""ONNX files at the bundle's door: what an engine may see, and all that it may not."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from flare_runtime import cli  # noqa: E402
from flare_runtime.backends import open_network  # noqa: E402
from flare_runtime.bundle import Bundle, default_bundle  # noqa: E402
from flare_runtime.errors import BundleError  # noqa: E402
from flare_runtime.onnx_file import check_network  # noqa: E402
from tests.runtime.nifti_files import blobs, write_nifti  # noqa: E402
from tests.runtime.small_onnx import changed_network, network_bundle, small_network  # noqa: E402

SOUND = small_network().SerializeToString()
PLACES = ("/etc/hostname", "../outside.bin", "network.data", "")


def check(data, *, channels=1, outputs=2, patch=(8, 8, 8)):
    check_network(data, "m/network.onnx", channels, outputs, patch)


def refusal(data, **manifest):
    with pytest.raises(BundleError) as caught:
        check(data, **manifest)
    text = str(caught.value)
    assert text.startswith("m/network.onnx: ")
    assert text.isprintable()
    return text


def outside(place):
    """Return a tensor whose values lie in another file."""
    tensor = TensorProto(name="first", data_type=TensorProto.FLOAT, dims=[4, 1, 3, 3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    return tensor


def sparse(place):
    return onnx.SparseTensorProto(values=outside(place), indices=outside(place), dims=[108])


def attribute(model, **fields):
    model.graph.node[0].attribute.append(onnx.AttributeProto(name="extra", **fields))


def subgraph(place):
    return helper.make_graph([], "inner", [], [], [outside(place)])


def function(place):
    node = helper.make_node("Constant", [], ["x"], value=outside(place))
    return helper.make_function("", "F", [], ["x"], [node], [helper.make_opsetid("", 18)])


EXTERNAL = {
    "initializer": lambda model, place: model.graph.initializer[0].CopyFrom(outside(place)),
    "another initializer": lambda model, place: model.graph.initializer.append(outside(place)),
    "sparse initializer": lambda model, place: model.graph.sparse_initializer.append(sparse(place)),
    "attribute": lambda model, place: attribute(model, t=outside(place), type=4),
    "attribute with tensors": lambda model, place: attribute(model, tensors=[outside(place)], type=9),
    "attribute with a sparse tensor": lambda model, place: attribute(model, sparse_tensor=sparse(place), type=11),
    "attribute with sparse tensors": lambda model, place: attribute(model, sparse_tensors=[sparse(place)], type=12),
    "subgraph": lambda model, place: attribute(model, g=subgraph(place), type=5),
    "subgraphs": lambda model, place: attribute(model, graphs=[subgraph(place)], type=10),
    "function": lambda model, place: model.functions.append(function(place)),
    "training": lambda model, place: model.training_info.add().initialization.CopyFrom(subgraph(place)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", EXTERNAL)
def test_weights_in_another_file_are_refused_wherever_they_may_hide(where, place):
    refusal(changed_network(lambda model: EXTERNAL[where](model, place)))


def test_a_location_alone_or_its_flag_alone_is_refused():
    by_key = changed_network(lambda model: model.graph.initializer[1].external_data.add(key="location", value="x"))
    by_flag = changed_network(lambda model: setattr(model.graph.initializer[1], "data_location", TensorProto.EXTERNAL))
    for data in (by_key, by_flag):
        assert "keeps weights in another file" in refusal(data)
    check(changed_network(lambda model: setattr(model.graph.initializer[1], "data_location", TensorProto.DEFAULT)))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_run_ends_with_7_before_an_engine_sees_weights_outside_the_bundle(tmp_path, capsys, backend):
    first = numpy_helper.to_array(small_network().graph.initializer[0])
    (tmp_path / "outside.bin").write_bytes((first * 3).tobytes())

    def point_outside(model):
        model.graph.initializer[0].CopyFrom(outside(str(tmp_path / "outside.bin")))

    bundle = network_bundle(tmp_path / "bundle", changed_network(point_outside))
    scan = write_nifti(tmp_path / "scan_0000.nii.gz", blobs((16, 16, 16)), spacing_mm=(2.5, 1.5, 1.5))
    options = ["-i", str(scan), "-o", str(tmp_path / "mask.nii.gz"), "-m", str(bundle), "--backend", backend]
    assert cli.main([*options, "--precision", "fp32"]) == 7
    assert "bundle/network.onnx: keeps weights in another file" in capsys.readouterr().err
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_the_exporter_writes_is_taken(tiny_bundle, precision):
    for bundle in (Bundle.open(tiny_bundle), Bundle.open(default_bundle())):
        for file in bundle.networks(precision):
            assert bundle.read_network(file) == (bundle.path / file.name).read_bytes()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_small_network_is_taken_and_runs(tmp_path, backend):
    bundle = Bundle.open(network_bundle(tmp_path / "bundle", SOUND))
    network = open_network(bundle, device="cpu", backend=backend, precision="fp32")
    assert network.run(np.ones((1, 1, 8, 8, 8), np.float32)).shape == (1, 2, 8, 8, 8)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ({"outputs": 3}, "gives (1, 2, 8, 8, 8); its manifest says (1, 3, 8, 8, 8)"),
        ({"channels": 2}, "takes (1, 1, 8, 8, 8); its manifest says (1, 2, 8, 8, 8)"),
        ({"patch": (8, 8, 16)}, "takes (1, 1, 8, 8, 8); its manifest says (1, 1, 8, 8, 16)"),
    ],
)
def test_a_network_that_the_manifest_does_not_describe_is_refused(manifest, says):
    assert says in refusal(SOUND, **manifest)


def end(model, which=0):
    return (model.graph.input, model.graph.output)[which][0].type.tensor_type


FOREIGN = {
    "a layer": (
        lambda model: setattr(model.graph.node[2], "op_type", "Loop\x1b"),
        "holds a layer 'Loop\\x1b'; allowed",
    ),
    "another's layer": (lambda model: setattr(model.graph.node[2], "domain", "com.microsoft"), "'com.microsoft'"),
    "another's set": (lambda model: model.opset_import.add(domain="evil", version=1), "'evil'"),
    "an open axis": (lambda model: end(model).shape.dim[4].Clear(), "takes (1, 1, 8, 8)"),
    "a named axis": (lambda model: setattr(end(model).shape.dim[0], "dim_param", "N"), "field 2 of an axis"),
    "no shape": (lambda model: end(model, 1).ClearField("shape"), "gives ()"),
    "halves": (lambda model: setattr(end(model), "elem_type", TensorProto.FLOAT16), "not float32"),
    "two outputs": (lambda model: model.graph.output.append(model.graph.output[0]), "gives (1, 2, 8, 8, 8), (1, 2, 8"),
    "no input": (lambda model: model.graph.ClearField("input"), "takes nothing"),
    "doubles": (
        lambda model: model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(4), "scale")),
        "not float32 or float16",
    ),
    "too few values": (
        lambda model: model.graph.initializer[1].ClearField("raw_data"),
        "without their values",
    ),
    "a negative side": (
        lambda model: model.graph.initializer[1].dims.__setitem__(0, -4),
        "values of another number",
    ),
}


@pytest.mark.parametrize(("change", "says"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_no_u_net_needs_is_refused_by_name(change, says):
    assert says in refusal(changed_network(change))


@pytest.mark.parametrize("data", [b"", b"\0", b"PK\3\4", b"hello", b"\xff" * 50, b"\x0b\x0c", SOUND + b"\x3a"])
def test_bytes_that_are_no_onnx_are_refused(data):
    refusal(data)


def test_a_network_that_is_cut_off_is_refused_wherever_it_is_cut():
    whole = SOUND.rstrip(b"B\x04\n\x00\x10\x12")  # the operator set, without which the walk is complete
    for length in range(len(whole)):
        refusal(SOUND[:length])


def tensors_of(message):
    """Yield every tensor in a protobuf message."""
    if isinstance(message, TensorProto):
        yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from tensors_of(part)


@given(data=st.data())
def test_no_changed_byte_raises_anything_else_or_brings_in_another_file(data):
    changed = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        changed[data.draw(st.integers(0, len(SOUND) - 1), "place")] = data.draw(st.integers(0, 255), "value")
    try:
        check(bytes(changed))
    except BundleError:
        return
    found = list(tensors_of(onnx.load_from_string(bytes(changed))))
    assert not any(tensor.external_data or tensor.data_location for tensor in found)


def test_weights_are_skipped_and_not_copied():
    weight = numpy_helper.from_array(np.zeros((2500, 2500), np.float32), "large")
    data = changed_network(lambda model: model.graph.initializer.append(weight))
    tracemalloc.start()
    started = time.perf_counter()
    check(data)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.1, "25 MB take milliseconds"
    assert peak < 1 << 20


def test_a_file_of_endless_fields_is_refused_in_time():
    graph = b"\x0a\x00" * 2_000_000
    length = bytes(
        [len(graph) & 127 | 128, len(graph) >> 7 & 127 | 128, len(graph) >> 14 & 127 | 128, len(graph) >> 21]
    )
    started = time.perf_counter()
    assert "fields" in refusal(b"\x3a" + length + graph)
    assert time.perf_counter() - started < 10
