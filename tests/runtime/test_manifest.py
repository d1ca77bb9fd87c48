"""The schema: what is known is read, everything else is refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.errors import BundleError
from flare_runtime.model.manifest import CTScheme, ZScoreScheme, decode_manifest, encode_manifest
from tests.runtime.manifests import make_manifest, manifest_fields

FILE = manifest_fields()["files"][0]
NETWORK = manifest_fields()["network"]
CHANNEL = manifest_fields()["channels"][0]


def decode(fields):
    return decode_manifest(json.dumps(fields).encode(), "m/manifest.json")


def refusal(fields):
    with pytest.raises(BundleError) as caught:
        decode(fields)
    text = str(caught.value)
    assert text.startswith("m/manifest.json: ")
    assert "\n" not in text
    return text


def test_a_manifest_survives_encoding():
    manifest = decode(manifest_fields())
    assert decode_manifest(encode_manifest(manifest), "again") == manifest
    assert manifest.spacing_mm == (2.5, 1.5, 1.5)
    assert manifest.channels[0].normalisation == CTScheme(lower=-600, upper=500, mean=40, std=120)
    assert manifest.parity == ()


def test_a_2d_network_leaves_slices_where_they_are():
    manifest = decode(manifest_fields(dimensions=2, patch=[1, 16, 16], mirror_axes=[1, 2]))
    assert manifest.grid_spacing_mm((7.0, 0.5, 0.6)) == (7.0, *manifest.spacing_mm[1:])
    assert decode(manifest_fields()).grid_spacing_mm((7.0, 0.5, 0.6)) == manifest.spacing_mm
    for changes in ({"patch": [2, 16, 16]}, {"mirror_axes": [0, 1]}):
        text = refusal(manifest_fields(**{"dimensions": 2, "patch": [1, 16, 16], "mirror_axes": [1]} | changes))
        assert "a 2D network with a patch of" in text


def test_what_a_model_has_no_need_of_is_not_written():
    written = json.loads(encode_manifest(decode(manifest_fields())))
    assert not {"dimensions", "caution", "parity"} & written.keys()


def test_schemes_are_told_apart_by_their_tag():
    channels = [
        CHANNEL,
        {"name": "b", "normalisation": {"scheme": "zscore", "masked": True}},
        *({"name": tag, "normalisation": {"scheme": tag}} for tag in ("rescale01", "rgb01", "none")),
    ]
    schemes = [channel.normalisation for channel in decode(manifest_fields(channels=channels)).channels]
    assert schemes[1] == ZScoreScheme(masked=True)
    assert [type(scheme).__name__ for scheme in schemes[2:]] == ["Rescale01Scheme", "RGB01Scheme", "NoScheme"]


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_schema_version_is_refused_before_anything_else(version):
    text = refusal({"schema_version": version, "whatever": 1})
    assert "schema version" in text
    assert "reads 1" in text


@pytest.mark.parametrize("key", sorted(manifest_fields().keys() - {"schema_version", "parity"}))
def test_every_field_is_needed(key):
    fields = manifest_fields()
    del fields[key]
    assert f"`{key}`" in refusal(fields)


@pytest.mark.parametrize(
    "fields",
    [
        manifest_fields(surprise=1),
        manifest_fields(files=[{**FILE, "url": "https://example.org"}]),
        manifest_fields(network={**NETWORK, "code": "import os"}),
        manifest_fields(channels=[{**CHANNEL, "weight": 1}]),
        manifest_fields(channels=[{"name": "a", "normalisation": {"scheme": "none", "mean": 1}}]),
        manifest_fields(image_resampling={"order": 3, "mode": "edge"}),
    ],
)
def test_unknown_fields_are_refused_at_every_depth(fields):
    assert "unknown field" in refusal(fields)


@pytest.mark.parametrize(
    "name",
    [
        "network.onnx\n",
        "../network.onnx",
        "/etc/passwd",
        "a/b.onnx",
        "a\\b.onnx",
        ".hidden",
        "",
        "..",
        "a b",
        "x" * 200,
        "-rf",
        "a\0b",
    ],
)
def test_file_names_that_are_paths_are_refused(name):
    assert "$.files[0].name" in refusal(manifest_fields(files=[{**FILE, "name": name}]))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"patch": [8, 8]}, "$.patch"),
        ({"patch": [8, 8, 0]}, "$.patch"),
        ({"patch": [8, 8, 8.5]}, "$.patch"),
        ({"spacing_mm": [1, 1, 0]}, "$.spacing_mm"),
        ({"spacing_mm": [1, -1, 1]}, "$.spacing_mm"),
        ({"step": 0}, "$.step"),
        ({"step": 1.5}, "$.step"),
        ({"step": 1e-300}, "$.step"),
        ({"step": 0.049}, "$.step"),
        ({"patch": [8, 8, 2049]}, "$.patch"),
        ({"patch": [8, 8, 10**30]}, "$.patch"),
        ({"spacing_mm": [1, 1e-300, 1]}, "$.spacing_mm"),
        ({"spacing_mm": [1, 1, 1001]}, "$.spacing_mm"),
        ({"channels": [CHANNEL] * 65}, "$.channels"),
        ({"labels": [{"name": "a", "values": []}]}, "$.labels"),
        ({"network": {**NETWORK, "outputs": 257}}, "$.network.outputs"),
        ({"network": {**NETWORK, "features": []}}, "$.network.features"),
        ({"network": {**NETWORK, "features": [4, 10**9]}}, "$.network.features"),
        ({"network": {**NETWORK, "parameters": 10**12}}, "$.network.parameters"),
        ({"network": {**NETWORK, "gmac": 1e300}}, "$.network.gmac"),
        ({"files": [{**FILE, "bytes": 1e12}]}, "$.files[0].bytes"),
        ({"files": [{**FILE, "bytes": 2**30 + 1}]}, "$.files[0].bytes"),
        ({"files": [{**FILE, "name": f"{i}"} for i in range(65)]}, "$.files"),
        ({"name": "two\nlines"}, "$.name"),
        ({"name": "\x1b[2J"}, "$.name"),
        ({"licence": "x" * 2000}, "$.licence"),
        ({"channels": []}, "$.channels"),
        ({"transpose_forward": [0, 1, 3]}, "$.transpose_forward"),
        ({"mirror_axes": [3]}, "$.mirror_axes"),
        ({"image_resampling": {"order": 6}}, "$.image_resampling"),
        ({"labels": [{"name": "a", "values": [256]}]}, "$.labels"),
        ({"postprocessing": [{"keep_largest": []}]}, "$.postprocessing[0].keep_largest"),
        ({"postprocessing": [{"keep_largest": [0]}]}, "$.postprocessing[0].keep_largest"),
        ({"postprocessing": [{"keep_largest": [1]}] * 257}, "$.postprocessing"),
        ({"files": [{**FILE, "sha256": "abc"}]}, "$.files[0].sha256"),
        ({"files": [{**FILE, "sha256": "G" * 64}]}, "$.files[0].sha256"),
        ({"files": [{**FILE, "bytes": 0}]}, "$.files[0].bytes"),
        ({"files": [{**FILE, "role": "script"}]}, "$.files[0].role"),
        ({"channels": [{**CHANNEL, "normalisation": {"scheme": "exec"}}]}, "$.channels[0].normalisation"),
        (
            {"channels": [{**CHANNEL, "normalisation": {**CHANNEL["normalisation"], "std": 0}}]},
            "$.channels[0].normalisation.std",
        ),
        (
            {"channels": [{**CHANNEL, "normalisation": {**CHANNEL["normalisation"], "std": 1e-300}}]},
            "$.channels[0].normalisation.std",
        ),
        (
            {"channels": [{**CHANNEL, "normalisation": {**CHANNEL["normalisation"], "upper": 1e300}}]},
            "$.channels[0].normalisation.upper",
        ),
    ],
)
def test_values_out_of_bounds_are_refused_with_their_place(changes, where):
    assert where in refusal(manifest_fields(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"transpose_forward": [0, 1, 1]}, "not a permutation"),
        ({"mirror_axes": [0, 0]}, "names an axis twice"),
        ({"logits_resampling": {"order": 3}}, "order 0 or 1 only"),
        ({"logits_resampling": {"order": 1, "order_z": 2}}, "order 0 or 1 only"),
        ({"regions_class_order": [1, 2, 3]}, "3 regions and 1 labels for 2 network outputs"),
        ({"regions_class_order": []}, "0 regions and 1 labels for 2 network outputs"),
        ({"regions_class_order": [1, 2]}, "2 regions and 1 labels for 2 network outputs"),
        ({"network": {**NETWORK, "outputs": 1}}, "1 network outputs"),
        ({"network": {**NETWORK, "outputs": 3}}, "labels of the values [1] for 3 network outputs"),
        ({"labels": [{"name": "a", "values": [2]}]}, "labels of the values [2] for 2 network outputs"),
        ({"labels": [{"name": "a", "values": [1]}, {"name": "b", "values": [1]}]}, "labels of the values [1, 1]"),
        ({"labels": []}, "labels of the values []"),
        ({"postprocessing": [{"keep_largest": [1, 2]}]}, "the postprocessing names the value 2, which no label has"),
        ({"patch": [2048, 2048, 2048]}, "more than 134,217,728 voxels"),
        ({"network": {**NETWORK, "stages": 3}}, "2 numbers of features for 3 stages"),
        (
            {"channels": [{**CHANNEL, "normalisation": {**CHANNEL["normalisation"], "upper": -600}}]},
            "clipped to -600 .. -600",
        ),
        ({"files": [{**FILE, "precision": None}]}, "a network of the precision None"),
        ({"files": [{**FILE, "precision": "int8"}]}, "a network of the precision int8"),
        ({"files": [FILE, FILE]}, "listed twice"),
        ({"files": []}, "no file has the role network"),
        ({"files": [{**FILE, "role": "model_card"}]}, "no file has the role network"),
    ],
)
def test_contradictions_are_refused(changes, says):
    assert says in refusal(manifest_fields(**changes))


def test_regions_that_match_the_network_are_taken():
    labels = [{"name": "whole", "values": [1, 2]}, {"name": "core", "values": [2]}]
    assert decode(manifest_fields(regions_class_order=[2, 1], labels=labels)).regions_class_order == (2, 1)


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "null": b"null",
    "list": b"[1]",
    "cut": json.dumps(manifest_fields()).encode()[:-10],
    "binary": b"\xff\xfe\0\1",
    "infinite": json.dumps(manifest_fields()).replace("120.0", "1e999").encode(),
    "NaN": json.dumps(manifest_fields()).replace("120.0", "NaN").encode(),
    "bad UTF-8 in a string": json.dumps(manifest_fields()).encode().replace(b"hand-made", b"hand\xff"),
    "nested without end": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_manifests_are_refused(data):
    with pytest.raises(BundleError, match=r"^m/manifest.json: "):
        decode_manifest(data, "m/manifest.json")


@given(place=st.integers(0, len(json.dumps(manifest_fields())) - 1), value=st.integers(0, 255))
def test_no_changed_byte_raises_anything_but_a_refusal(place, value):
    data = bytearray(json.dumps(manifest_fields()).encode())
    data[place] = value
    try:
        outcome = decode_manifest(bytes(data), "m").schema_version
    except BundleError:
        outcome = "refused"
    assert outcome in {1, "refused"}


def test_a_value_is_called_by_the_smallest_label_that_has_it():
    labels = [{"name": "kidney", "values": [1, 2, 3]}, {"name": "mass", "values": [2, 3]}]
    manifest = make_manifest(labels=[*labels, {"name": "tumour", "values": [3]}])
    assert manifest.label_names == {1: "kidney", 2: "mass", 3: "tumour"}
