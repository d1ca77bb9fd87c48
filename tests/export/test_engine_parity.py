"""Engines that are right and wrong, played by ONNX Runtime: which are refused, and why."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from flare_export.engine.parity import (  # noqa: E402
    MIN_DICE,
    EngineParity,
    case_batches,
    check_parity,
    measure_engine,
    synthetic_batch,
)
from flare_export.errors import DisagreementError  # noqa: E402
from flare_export.graph.batched_graph import with_batch  # noqa: E402
from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork  # noqa: E402
from flare_runtime.errors import CaseError, UsageError  # noqa: E402
from flare_runtime.model.bundle import Bundle  # noqa: E402
from flare_runtime.model.manifest import Agreement  # noqa: E402
from flare_runtime.pipeline.decoding import Decoder  # noqa: E402
from tests.runtime.manifests import make_manifest  # noqa: E402
from tests.runtime.nifti_files import blobs, write_nifti  # noqa: E402

DECODER = Decoder(2)


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def reference(bundle):
    return OnnxRuntimeNetwork(bundle.read(bundle.networks("fp32")[0]), threads=1).run


def engine(bundle, batch):
    """The float16 network for whole batches."""
    return OnnxRuntimeNetwork(with_batch(bundle.read(bundle.networks("fp16")[0]), batch), "fp16", threads=1).run


def verdict(run, reference, batches):
    parity = measure_engine(run, reference, batches, DECODER)
    check_parity(parity)
    return parity


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_float16_network_is_accepted_at_every_batch(bundle, reference, batch):
    parity = verdict(engine(bundle, batch), reference, [synthetic_batch(bundle.manifest, batch)])
    assert parity.tiles == batch
    assert 0.999 < parity.agreement.dice <= 1
    assert parity.agreement.foreground_voxels > 1000
    assert 0 < parity.max_logit_difference < 0.1
    assert 0 < parity.relative_error < 0.01


def test_several_batches_count_together(bundle, reference):
    tiles = synthetic_batch(bundle.manifest, 4)
    apart = measure_engine(engine(bundle, 2), reference, np.split(tiles, 2), DECODER)
    whole = measure_engine(engine(bundle, 4), reference, [tiles], DECODER)
    assert (apart.tiles, apart.agreement, apart.engine_voxels) == (whole.tiles, whole.agreement, whole.engine_voxels)
    assert apart.relative_error == pytest.approx(whole.relative_error)


def test_a_network_of_another_batch_has_the_same_weights_and_ends(bundle):
    model = onnx.load_from_string(with_batch(bundle.read(bundle.networks("fp16")[0]), 3))
    for end, channels in ((model.graph.input[0], 1), (model.graph.output[0], 2)):
        assert [side.dim_value for side in end.type.tensor_type.shape.dim] == [3, channels, 16, 16, 16]
    original = onnx.load_from_string(bundle.read(bundle.networks("fp16")[0]))
    assert model.graph.initializer == original.graph.initializer


def wrong(bundle, batch, change):
    """The float16 network whose logits of a batch are changed in place."""
    run = engine(bundle, batch)

    def changed(tiles):
        logits = run(tiles).copy()
        change(logits)
        return logits

    return changed


def second_as_first(logits):
    logits[1] = logits[0]


def swapped(logits):
    logits[[0, 1]] = logits[[1, 0]]


def second_left_out(logits):
    logits[1] = 0


def all_background(logits):
    logits[:, 0], logits[:, 1] = 1, -1


def one_nan(logits):
    logits[1, 0, 3, 3, 3] = np.nan


def one_infinity(logits):
    logits[0, 1, 0, 0, 0] = np.inf


def channels_swapped(logits):
    logits[:] = logits[:, ::-1].copy()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (second_as_first, "agrees with the reference to a Dice of"),
        (swapped, "agrees with the reference to a Dice of"),
        (second_left_out, "agrees with the reference to a Dice of"),
        (all_background, "finds nothing where the reference has"),
        (one_nan, "NaN or infinity for tile 2 of a batch of 2"),
        (one_infinity, "NaN or infinity for tile 1 of a batch of 2"),
        (channels_swapped, "agrees with the reference to a Dice of"),
    ],
)
def test_a_wrong_engine_is_refused_with_the_reason(bundle, reference, change, reason):
    with pytest.raises(DisagreementError, match=reason):
        verdict(wrong(bundle, 2, change), reference, [synthetic_batch(bundle.manifest, 2)])


def test_an_engine_for_one_tile_does_not_pass_for_one_of_two(bundle, reference):
    with pytest.raises(DisagreementError, match=r"logits of \(1, 2, 16, 16, 16\), \(2, 2, 16, 16, 16\) are right"):
        verdict(lambda tiles: reference(tiles[:1]), reference, [synthetic_batch(bundle.manifest, 2)])


@pytest.mark.parametrize("change", [second_as_first, swapped])
def test_a_wrong_place_in_the_batch_shows_without_any_foreground(bundle, reference, change):
    def background(run):
        def shifted(tiles):
            logits = run(tiles).copy()
            logits[:, 0] += 100
            return logits

        return shifted

    tiles = [synthetic_batch(bundle.manifest, 2)]
    assert verdict(background(engine(bundle, 2)), background(reference), tiles).agreement.foreground_voxels == 0
    with pytest.raises(DisagreementError, match="scores of one tile are off"):
        verdict(background(wrong(bundle, 2, change)), background(reference), tiles)


def parity(dice=1.0, foreground=1000, voxels=1.0, found=1000, error=0.0):
    agreement = Agreement(voxel_agreement=voxels, dice=dice, foreground_voxels=foreground)
    return EngineParity(2, agreement, found, 0.1, error)


@pytest.mark.parametrize(
    ("measured", "accepted"),
    [
        (parity(), True),
        (parity(dice=MIN_DICE), True),
        (parity(dice=MIN_DICE - 1e-6), False),
        (parity(dice=float("nan")), False),
        (parity(error=0.1), True),
        (parity(error=0.101), False),
        (parity(error=float("nan")), False),
        (parity(found=0, dice=0.0), False),
        # A Dice over nothing says nothing.
        (parity(foreground=0, found=1, dice=0.0, voxels=0.99999), True),
        (parity(foreground=0, found=1000, dice=0.0, voxels=0.9), False),
    ],
)
def test_the_bounds_are_kept(measured, accepted):
    if accepted:
        check_parity(measured)
        return
    with pytest.raises(DisagreementError):
        check_parity(measured)


def relative_error(expected, found, decoder=DECODER):
    """Of one tile whose logits are constant in each of the halves of z: (channels, halves)."""

    def logits(values):
        return np.repeat(np.array(values, np.float32)[None], 2, axis=-1)[..., None, None]

    tiles = [np.zeros((1, 1, 4, 1, 1), np.float32)]
    return measure_engine(lambda _: logits(found), lambda _: logits(expected), tiles, decoder).relative_error


def test_errors_are_measured_by_the_deviation_of_the_scores():
    # Scores of 10 and -10 have a standard deviation of 10; what both logits share does not count.
    assert relative_error([[0, 0], [10, -10]], [[0, 0], [11, -9]]) == pytest.approx(0.1)
    assert relative_error([[50, 90], [60, 80]], [[51, 95], [61, 85]]) == 0
    # Of the classes, the worst counts: deviations of 10 and of 1.
    assert relative_error([[0, 0], [10, -10], [1, -1]], [[0, 0], [11, -9], [1.5, -0.5]], Decoder(3)) == 0.5


def test_scores_that_are_all_the_same_are_measured_by_a_hundredth_of_their_size():
    assert relative_error([[0, 0], [-10, -10]], [[0, 0], [-10.05, -10.05]]) == pytest.approx(0.5, rel=1e-4)
    assert relative_error([[0, 0], [0, 0]], [[0, 0], [0, 0]]) == 0


# --- tiles of real cases


@pytest.fixture
def case(tmp_path):
    def write(shape, name="case_0000.nii.gz", image=None):
        image = blobs(shape) if image is None else image
        return [write_nifti(tmp_path / name, image, spacing_mm=(2.5, 1.5, 1.5))]

    return write


def distinct(tiles):
    return len({tile.tobytes() for tile in tiles})


@pytest.mark.parametrize(("batch", "batches"), [(1, 4), (2, 2), (3, 2), (4, 1), (6, 1)])
def test_a_case_gives_whole_batches_of_different_tiles(bundle, case, batch, batches):
    made = list(case_batches([case((40, 40, 40))], bundle.manifest, batch))
    assert [tiles.shape for tiles in made] == [(batch, 1, 16, 16, 16)] * batches
    assert distinct(np.concatenate(made)) == batch * batches
    assert all(tiles.dtype == np.float32 and tiles.flags.c_contiguous for tiles in made)


@pytest.mark.parametrize("batch", [1, 4, 20])
def test_a_case_of_one_tile_gives_different_ones_all_the_same(bundle, case, batch):
    made = np.concatenate(list(case_batches([case((16, 16, 16))], bundle.manifest, batch)))
    assert len(made) == max(4, batch)
    assert distinct(made) == len(made)


def test_tiles_are_those_of_the_runtime(bundle, case):
    from flare_runtime.imaging.read import read_volume
    from flare_runtime.pipeline.preprocessing import prepare

    files = case((40, 40, 40))
    image = prepare([read_volume(files[0])], bundle.manifest).image
    (tiles,) = case_batches([files], bundle.manifest, 4)
    np.testing.assert_array_equal(tiles[0], image[:, :16, :16, :16])
    assert image.shape == (1, 40, 40, 40)
    for tile in tiles:
        found = [
            (z, y, x)
            for z in range(0, 25)
            for y in range(0, 25)
            for x in range(0, 25)
            if image[0, z, y, x] == tile[0, 0, 0, 0]
            and np.array_equal(image[:, z : z + 16, y : y + 16, x : x + 16], tile)
        ]
        assert len(found) == 1


def test_every_case_is_taken(bundle, case):
    cases = [case((40, 40, 40)), case((30, 20, 40), "other_0000.nii.gz")]
    assert len(list(case_batches(cases, bundle.manifest, 2))) == 4


def test_an_accepted_engine_agrees_on_a_case(bundle, reference, case):
    batches = case_batches([case((40, 40, 40))], bundle.manifest, 2)
    assert verdict(engine(bundle, 2), reference, batches).tiles == 4


def test_a_case_of_zeros_and_a_missing_one_are_said_to_be_so(bundle, case, tmp_path):
    with pytest.raises(UsageError, match="nothing but zeros"):
        list(case_batches([case((20, 20, 20), image=np.zeros((20, 20, 20), np.int16))], bundle.manifest, 1))
    with pytest.raises(CaseError, match="No such file"):
        list(case_batches([[tmp_path / "nowhere.nii.gz"]], bundle.manifest, 1))


def test_synthetic_tiles_have_the_models_channels_and_differ():
    channel = {"name": "MR", "normalisation": {"scheme": "zscore"}}
    tiles = synthetic_batch(make_manifest(channels=[channel, channel]), 3)
    assert tiles.shape == (3, 2, 8, 8, 8)
    assert distinct(tiles) == 3
