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
from flare_runtime.backends.selection import open_network  # noqa: E402
from flare_runtime.errors import BundleError  # noqa: E402
from flare_runtime.model.bundle import Bundle, default_bundle  # noqa: E402
from flare_runtime.model.onnx_file import check_network  # noqa: E402
from flare_runtime.options import RunOptions  # noqa: E402
from tests.runtime.manifests import make_manifest  # noqa: E402
from tests.runtime.nifti_files import blobs, write_nifti  # noqa: E402
from tests.runtime.onnx_networks import Network  # noqa: E402
from tests.runtime.small_onnx import changed_network, network_bundle, small_network  # noqa: E402

SOUND = small_network().SerializeToString()
PLACES = ("/etc/hostname", "../outside.bin", "network.data", "")


CHANNEL = {"name": "CT", "normalisation": {"scheme": "none"}}


def check(data, *, channels=1, outputs=2, patch=(8, 8, 8), features=(4, 8)):
    network = {"architecture": "x", "stages": 2, "features": list(features), "parameters": 9, "gmac": 1.0}
    fields = {"network": {**network, "outputs": outputs}, "patch": list(patch), "channels": [CHANNEL] * channels}
    check_network(data, "m/network.onnx", make_manifest(**fields))


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
def test_a_run_ends_with_7_before_an_engine_sees_weights_outside_the_bundle(tmp_path, monkeypatch, capsys, backend):
    monkeypatch.chdir(tmp_path)  # OpenVINO takes files of the working directory
    first = numpy_helper.to_array(small_network().graph.initializer[0])
    (tmp_path / "outside.bin").write_bytes((first * 3).tobytes())

    def point_outside(model):
        model.graph.initializer[0].CopyFrom(outside(str(tmp_path / "outside.bin")))

    bundle = network_bundle(tmp_path / "bundle", changed_network(point_outside))
    scan = write_nifti(tmp_path / "scan_0000.nii.gz", blobs((16, 16, 16)), spacing_mm=(2.5, 1.5, 1.5))
    options = ["-i", str(scan), "-o", str(tmp_path / "mask.nii.gz"), "-m", str(bundle), "--backend", backend]
    assert cli.main([*options, "--precision", "fp32"]) == 7
    assert (
        "bundle/network.onnx: not a network that flare-export writes (it keeps weights in another file)"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_the_exporter_writes_is_taken(tiny_bundle, precision):
    for bundle in (Bundle.open(tiny_bundle), Bundle.open(default_bundle())):
        for file in bundle.networks(precision):
            assert bundle.read_network(file) == (bundle.path / file.name).read_bytes()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_small_network_is_taken_and_runs(tmp_path, backend):
    bundle = Bundle.open(network_bundle(tmp_path / "bundle", SOUND))
    network = open_network(bundle, RunOptions(device="cpu", backend=backend, precision="fp32"))
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
    "no version": (lambda model: setattr(model.opset_import[0], "version", 2**63 - 1), "unknown version of ONNX"),
    "another's set": (lambda model: model.opset_import.add(domain="evil", version=1), "'evil'"),
    "an open axis": (lambda model: end(model).shape.dim[4].Clear(), "takes (1, 1, 8, 8, 0)"),
    "a named axis": (lambda model: setattr(end(model).shape.dim[0], "dim_param", "N"), "axis, field 2"),
    "no shape": (lambda model: end(model).ClearField("shape"), "takes ()"),
    "halves": (lambda model: setattr(end(model), "elem_type", TensorProto.FLOAT16), "not float32"),
    "two outputs": (lambda model: model.graph.output.append(model.graph.output[0]), "gives (1, 2, 8, 8, 8), (1, 2, 8"),
    "no input": (lambda model: model.graph.ClearField("input"), "takes nothing"),
    "doubles": (
        lambda model: model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(4), "scale")),
        "neither float32 nor float16",
    ),
    "too few values": (
        lambda model: model.graph.initializer[1].ClearField("raw_data"),
        "cannot reshape array of size 0 into shape (4,)",
    ),
    "a negative side": (
        lambda model: model.graph.initializer[1].dims.__setitem__(0, -4),
        "weights scale of the shape [-4]",
    ),
}


@pytest.mark.parametrize(("change", "says"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_no_u_net_needs_is_refused_by_name(change, says):
    assert says in refusal(changed_network(change))


def set_attribute(model, node, name, value):
    kept = [found for found in model.graph.node[node].attribute if found.name != name]
    del model.graph.node[node].attribute[:]
    model.graph.node[node].attribute.extend([*kept, helper.make_attribute(name, value)])


def set_weights(model, index, shape):
    name = model.graph.initializer[index].name
    model.graph.initializer[index].CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), name))


def add_layer(model, kind, inputs, **attributes):
    """Put a layer before the last one, which takes what it gives."""
    nodes = list(model.graph.node)
    made = helper.make_node(kind, inputs, ["d"], **attributes)
    nodes[-1].input[0] = "d"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:-1], made, nodes[-1]])


def join_with_pooled(model):
    add_layer(model, "AveragePool", ["c"], kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    model.graph.node[3].output[0] = "pooled"
    add_layer(model, "Concat", ["c", "pooled"], axis=1)


# Layers 0 to 3 are a convolution, a norm, an activation and the head; weights 0 to 3 the first kernel, the norm's two
# and the head's kernel.
UNFIT = {
    "a kernel of other channels": (lambda model: set_weights(model, 3, (2, 5, 1, 1, 1)), "does not fit what it takes"),
    "a kernel of four axes": (lambda model: set_weights(model, 0, (4, 1, 3, 3)), "does not fit what it takes"),
    "a norm of other channels": (lambda model: set_weights(model, 1, (5,)), "does not fit what it takes"),
    "no padding": (lambda model: set_attribute(model, 0, "pads", [0] * 6), "gives (1, 2, 6, 6, 6)"),
    "nothing left of the image": (
        lambda model: (
            set_weights(model, 0, (4, 1, 9, 9, 9)),
            set_attribute(model, 0, "kernel_shape", [9] * 3),
            set_attribute(model, 0, "pads", [0] * 6),
        ),
        "gives nothing",
    ),
    "padding as wide as the kernel": (lambda model: set_attribute(model, 0, "pads", [3] + [1] * 5), "does not fit"),
    "endless padding": (lambda model: set_attribute(model, 0, "pads", [10**9] * 6), "does not fit what it takes"),
    "a stride of nothing": (lambda model: set_attribute(model, 0, "strides", [0, 1, 1]), "does not fit"),
    "a stride over voxels": (lambda model: set_attribute(model, 3, "strides", [1, 3, 1]), "does not fit what it takes"),
    "a bias of other channels": (lambda model: model.graph.node[3].input.append("bias"), "does not fit what it takes"),
    "a norm without a shift": (lambda model: model.graph.node[1].input.pop(), "does not fit what it takes"),
    "joined along no axis": (lambda model: add_layer(model, "Concat", ["c", "c"]), "Concat of 'd' does not fit"),
    "joined of unlike sides": (join_with_pooled, "Concat of 'd' does not fit"),
    "a kernel of another shape": (
        lambda model: set_attribute(model, 0, "kernel_shape", [3, 3, 5]),
        "Conv of 'a' does not fit",
    ),
    "groups": (lambda model: set_attribute(model, 0, "group", 2), "has group 2"),
    "an unknown word": (lambda model: set_attribute(model, 0, "extra", 1), "has extra 1"),
    "text in place of a number": (lambda model: set_attribute(model, 0, "group", "1"), "has group '1'"),
    "a slope that is no number": (lambda model: set_attribute(model, 2, "alpha", float("nan")), "has alpha nan"),
    "what was not computed": (lambda model: model.graph.node[2].input.__setitem__(0, "c"), "not computed before it"),
    "a weight that is missing": (lambda model: model.graph.node[1].input.__setitem__(1, "x"), "weights that are not"),
    "computed weights": (lambda model: model.graph.node[3].input.__setitem__(1, "b"), "weights that are not there"),
    "a result twice": (lambda model: model.graph.node[2].output.__setitem__(0, "b"), "gives what is there already"),
    "a result that is a weight": (lambda model: model.graph.node[0].output.__setitem__(0, "scale"), "is there already"),
    "a sum of unlike tensors": (lambda model: add_layer(model, "Add", ["c", "tiles"]), "does not fit what it takes"),
    "a cast to whole numbers": (
        lambda model: add_layer(model, "Cast", ["c"], to=TensorProto.INT64),
        "casts to another",
    ),
    "a cast to two types": (lambda model: add_layer(model, "Cast", ["c"], to=[1, 1]), "casts to another"),
    "an input that is a weight": (
        lambda model: model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "tiles")),
        "'tiles' is an input and a weight",
    ),
    "float16 meets float32": (lambda model: add_layer(model, "Cast", ["c"], to=TensorProto.FLOAT16), "several types"),
    "another axis": (lambda model: add_layer(model, "Concat", ["c", "c"], axis=2), "has axis 2"),
    "two results": (lambda model: model.graph.node[2].output.append("second"), "a layer LeakyRelu with 2 outputs"),
    "an attribute twice": (
        lambda model: model.graph.node[0].attribute.append(model.graph.node[0].attribute[0]),
        "two attributes kernel_shape",
    ),
    "an attribute of another kind": (
        lambda model: setattr(model.graph.node[0].attribute[0], "type", 1),
        "of another kind than its value",
    ),
    "two weights first": (
        lambda model: model.graph.initializer.append(model.graph.initializer[0]),
        "two weights first",
    ),
    "shapes of what is between": (lambda model: model.graph.value_info.append(model.graph.input[0]), "graph, field 13"),
}


@pytest.mark.parametrize(("change", "says"), UNFIT.values(), ids=UNFIT.keys())
def test_layers_that_do_not_fit_together_are_refused(change, says):
    assert says in refusal(changed_network(change))


def test_more_features_than_the_manifest_counts_memory_for_are_refused():
    def widen(model):
        set_weights(model, 0, (40, 1, 3, 3, 3))
        for index in (1, 2):
            set_weights(model, index, (40,))
        set_weights(model, 3, (2, 40, 1, 1, 1))

    check(changed_network(widen), features=(10, 20))
    assert "more than 4 times the features (2, 4)" in refusal(changed_network(widen), features=(2, 4))


def test_what_a_parser_would_merge_is_refused():
    graph = small_network()
    graph.ClearField("opset_import")
    assert "says a thing twice (model, field 7)" in refusal(SOUND + graph.SerializeToString()[2:])


def test_endless_texts_are_refused_before_they_are_read():
    named = changed_network(lambda model: setattr(model.graph.node[0], "name", "x" * 70_000))
    assert "says an endless thing (layer, field 3)" in refusal(named)


def test_a_chain_of_endless_layers_is_refused():
    def lengthen(model):
        for _ in range(2000):
            model.graph.node.append(helper.make_node("Relu", ["logits"], ["e"]))

    assert "2,004 layers" in refusal(changed_network(lengthen))


SOUND_LAYERS = {
    "up": lambda net, x: net.up(net.block(x, 8, 8, stride=(1, 2, 2)), 8, 8, (1, 2, 2)),
    "residual": lambda net, x: net.layer("Add", x, net.block(x, 8, 8)),
    "pool": lambda net, x: net.up(
        net.layer("AveragePool", x, kernel_shape=[2, 2, 2], strides=[2, 2, 2]), 8, 8, (2, 2, 2), bias=False
    ),
    "skip": lambda net, x: net.conv(net.joined(x, net.leaky(x)), 16, 8, bias=True),
    "identity": lambda net, x: net.layer("Relu", net.layer("Identity", x)),
}


@pytest.mark.parametrize("build", SOUND_LAYERS.values(), ids=SOUND_LAYERS.keys())
def test_layers_of_u_nets_are_taken(build):
    net = Network(1, 1, 8, 8, 8)
    data = net.head(build(net, net.block("tiles", 1, 8)), 8, 2)
    model = onnx.load_from_string(data)
    for axis, side in zip(model.graph.output[0].type.tensor_type.shape.dim, (1, 2, 8, 8, 8), strict=True):
        axis.dim_value = side
    check(model.SerializeToString(), features=(8, 16))


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
    weight = numpy_helper.from_array(np.zeros((2500, 2500), np.float32), "large")  # takes no part
    data = changed_network(lambda model: model.graph.initializer.append(weight))
    tracemalloc.start()
    check(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20, "25 MB of weights"


def test_a_file_of_endless_fields_is_refused_in_time():
    graph = b"\x0a\x00" * 2_000_000
    length = bytes(
        [len(graph) & 127 | 128, len(graph) >> 7 & 127 | 128, len(graph) >> 14 & 127 | 128, len(graph) >> 21]
    )
    started = time.process_time()
    assert "more than 200,000 fields" in refusal(b"\x3a" + length + graph)
    assert time.process_time() - started < 10
