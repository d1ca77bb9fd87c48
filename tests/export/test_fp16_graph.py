"""The network in half precision: which tensors are what, and that it still computes the same."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from flare_export.errors import ModelError  # noqa: E402
from flare_export.graph.fp16_graph import to_fp16  # noqa: E402
from flare_runtime.backends.selection import open_network  # noqa: E402
from flare_runtime.backends.synthetic_patch import structured_patch  # noqa: E402
from flare_runtime.errors import UsageError  # noqa: E402
from flare_runtime.model.bundle import Bundle  # noqa: E402
from flare_runtime.options import RunOptions  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def graph(bundle):
    (file,) = bundle.networks("fp16")
    return onnx.shape_inference.infer_shapes(onnx.load_from_string(bundle.read(file)), strict_mode=True).graph


def kinds(graph):
    """The element type of every tensor, as the graph alone tells."""
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def test_convolutions_are_half_and_norms_single_and_the_ends_single(graph):
    kind = kinds(graph)
    seen = {"Conv": 0, "ConvTranspose": 0, "InstanceNormalization": 0}
    for node in graph.node:
        if node.op_type in seen:
            seen[node.op_type] += 1
            wanted = TensorProto.FLOAT if node.op_type == "InstanceNormalization" else TensorProto.FLOAT16
            assert {kind[name] for name in (*node.input, *node.output)} == {wanted}, node.name
    assert all(seen.values()), seen
    assert [kind[value.name] for value in (*graph.input, *graph.output)] == [TensorProto.FLOAT] * 2


def test_it_computes_what_float32_computes_to_half_precision(bundle):
    tiles = structured_patch(1, bundle.manifest.patch, seed=3)
    single, half = (
        open_network(bundle, RunOptions(backend="onnxruntime", precision=precision)).run(tiles)
        for precision in ("fp32", "fp16")
    )
    assert half.dtype == np.float32
    assert not np.array_equal(single, half)
    assert np.abs(single - half).max() < 0.02 * np.abs(single).max()


def test_the_manifest_records_how_far_it_agrees(bundle):
    (record,) = (record for record in bundle.manifest.parity if record.precision == "fp16")
    assert (record.backend, record.scope) == ("onnxruntime", "patch")
    assert record.dice > 0.98
    assert 0 < record.max_logit_difference < 0.2


def test_openvino_has_no_half_precision_on_a_cpu(bundle):
    with pytest.raises(UsageError, match="has no fp16 on the CPU"):
        open_network(bundle, RunOptions(backend="openvino", precision="fp16"))


@pytest.mark.parametrize(("value", "says"), [(7e4, "holds 70000"), (np.nan, "holds nan")])
def test_a_weight_beyond_half_precision_is_refused_by_name(value, says):
    weight = numpy_helper.from_array(np.array([[[[[value]]]]], np.float32), "first.weight")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2, 2]) for name in ("tiles", "logits")]
    node = helper.make_node("Conv", ["tiles", "first.weight"], ["logits"])
    model = helper.make_model(
        helper.make_graph([node], "g", [ends[0]], [ends[1]], [weight]), opset_imports=[helper.make_opsetid("", 18)]
    )
    with pytest.raises(ModelError, match=rf"first\.weight: {says}"):
        to_fp16(model.SerializeToString())
