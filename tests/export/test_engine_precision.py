"""What an engine says of its layers, in the words of several TensorRT versions."""

import json

import pytest

from flare_export.engine.precision import Layer, check_layers, check_size, kind_of, read_layers
from flare_export.errors import DisagreementError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Half", "half"),
        ("HALF", "half"),
        ("FP16", "half"),
        ("Row major linear FP16 format", "half"),
        ("Channel major FP16 format where channel % 8 == 0", "half"),
        ("Half(64,1:8,16,1)", "half"),
        ("Float", "single"),
        ("FLOAT", "single"),
        ("Row major linear FP32 format (kLINEAR)", "single"),
        ("BF16", "other"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "other"),
        ("N/A due to dynamic shapes", "other"),
        ("", "other"),
    ],
)
def test_the_names_of_types_are_known(text, kind):
    assert kind_of(text) == kind


def tensor_10(kind):
    return {"Name": "t", "Location": "Device", "Dimensions": [2, 8, 4, 4, 4], "Format/Datatype": kind}


def tensor_11(kind):
    return {"Name": "t", "Location": "Device", "Dimensions": [2, 8, 4, 4, 4], "Format": "Row major", "Datatype": kind}


def information(layers, tensor=tensor_11):
    """JSON as an engine inspector writes it, of layers given as (name, type, input types)."""
    return json.dumps(
        {
            "Layers": [
                {
                    "Name": name,
                    "LayerType": kind,
                    "Inputs": [tensor(word) for word in inputs],
                    "Outputs": [tensor("Half")],
                    "TacticName": "sm90_xmma_fprop",
                }
                for name, kind, inputs in layers
            ],
            "I/O Tensors": [{"Name": "tiles", "IOMode": "Input", "DataType": "Float"}],
        }
    )


GOOD = [
    ("reformat", "Reformat", ["Float"]),
    ("first", "CaskConvolution", ["Half"]),
    ("norm", "kgen", ["Float", "Float"]),
    ("up", "CaskDeconvolutionV2", ["Half"]),
]


@pytest.mark.parametrize("tensor", [tensor_10, tensor_11])
def test_convolutions_in_float16_and_norms_in_float32_are_as_wanted(tensor):
    layers = read_layers(information(GOOD, tensor))
    assert [layer.inputs[0] for layer in layers] == ["single", "half", "single", "half"]
    assert [layer.convolves for layer in layers] == [False, True, False, True]
    assert check_layers(layers).startswith("2 of 2 convolutions")


@pytest.mark.parametrize("tensor", [tensor_10, tensor_11])
@pytest.mark.parametrize("kind", ["CaskConvolution", "Deconvolution", "correlation"])
def test_one_convolution_in_float32_is_refused_by_name(tensor, kind):
    layers = read_layers(information([*GOOD, ("the wide one", kind, ["Float", "Half"])], tensor))
    with pytest.raises(DisagreementError, match=r"1 of 3 convolutions .* float32 .*\(the wide one\)"):
        check_layers(layers)


def test_the_role_may_be_in_either_field():
    entry = {"Name": "fused", "LayerType": "fusion", "ParameterType": "Convolution", "Inputs": [tensor_11("Float")]}
    with pytest.raises(DisagreementError, match="fused"):
        check_layers(read_layers(json.dumps({"Layers": [entry]})))


def test_where_no_convolution_is_named_some_layer_has_to_be_float16():
    fused = [("a", "kgen", ["Float"]), ("b", "kgen", ["Float", "Half"])]
    assert check_layers(read_layers(information(fused))).startswith("1 of 2 layers")
    for described in (True, False):
        with pytest.raises(DisagreementError, match="none of the 1 layers"):
            check_layers(read_layers(information(fused[:1])), described=described)


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"Layers": ["first", "norm"]}'])
def test_what_describes_no_layer_is_refused_unless_nothing_was_expected(text):
    layers = read_layers(text)
    assert layers == []
    with pytest.raises(DisagreementError, match="none of the 0 layers"):
        check_layers(layers)
    assert check_layers(layers, described=False) == "TensorRT describes no layer of this engine"


def test_convolutions_of_unknown_types_alone_are_not_enough():
    with pytest.raises(DisagreementError, match="none of the 1 layers"):
        check_layers([Layer("conv", convolves=True, inputs=("other",))])


@pytest.mark.parametrize(
    ("engine", "onnx", "fits"),
    [
        (62_000_000, 60_000_000, True),
        (120_000_000, 60_000_000, True),  # what is not weights may be large
        (240_000_000, 120_000_000, True),
        (480_000_000, 240_000_000, False),  # all weights in float32
    ],
)
def test_an_engine_with_weights_in_float32_is_too_large(engine, onnx, fits):
    if fits:
        check_size(engine, onnx)
        return
    with pytest.raises(DisagreementError, match="480,000,000 bytes"):
        check_size(engine, onnx)
