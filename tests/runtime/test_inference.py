"""The network over an image: tiles, mirroring, and what a broken network leads to."""

import numpy as np
import pytest

from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.inference import TiledInference
from tests.runtime.manifests import ArithmeticNetwork
from tests.runtime.strict_device import StrictDevice, StrictNetwork

PATCH = (8, 6, 4)


def infer(image, network, decoder, *, step=0.5, progress=iter, **options):
    return TiledInference(network, decoder, PATCH, step, **options).run(image, progress=progress)


def predict(image, network, decoder, **options):
    return infer(image, network, decoder, **options).scores


def image_of(shape, channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 6, 4), (13, 6, 9), (20, 17, 11)])
@pytest.mark.parametrize("step", [0.5, 0.3, 1.0])
def test_an_identity_network_gives_the_image_back(shape, step):
    image = image_of(shape)
    network = ArithmeticNetwork(lambda tiles: np.concatenate([-tiles / 2, tiles / 2], axis=1))
    scores = predict(image, network, Decoder(2), step=step)
    np.testing.assert_allclose(scores, image, rtol=1e-4, atol=1e-5)


def test_channels_and_classes_pass_through_a_linear_network():
    image = image_of((12, 10, 9), channels=2)
    weights = np.array([[1, -1], [0.5, 2], [-3, 0.25]], np.float32)
    network = ArithmeticNetwork(lambda tiles: np.einsum("oc,nczyx->nozyx", weights, tiles))
    scores = predict(image, network, Decoder(3))
    logits = np.einsum("oc,czyx->ozyx", weights, image)
    np.testing.assert_allclose(scores, logits[1:] - logits[:1], rtol=1e-4, atol=1e-4)


def test_every_tile_has_the_shape_the_network_wants():
    seen = []

    def function(tiles):
        assert tiles.flags.c_contiguous
        seen.append((tiles.shape, tiles.dtype))
        return np.zeros((1, 2, *PATCH))

    predict(image_of((13, 6, 9), channels=3), ArithmeticNetwork(function), Decoder(2))
    assert seen == [((1, 3, *PATCH), np.float32)] * (3 * 1 * 4)


def ramp_network():
    """A network whose logits depend on where in the tile a voxel lies: z + 10 y + 100 x, plus the voxel itself."""
    z, y, x = np.ogrid[: PATCH[0], : PATCH[1], : PATCH[2]]
    ramp = (z + 10 * y + 100 * x).astype(np.float32)
    return ArithmeticNetwork(lambda tiles: np.concatenate([np.zeros_like(tiles), tiles + ramp], axis=1)), ramp


@pytest.mark.parametrize(
    ("axes", "mean_ramp", "runs"),
    [
        ((), lambda z, y, x: z + 10 * y + 100 * x, 1),
        # Averaged with its mirror image, a ramp of 0..n-1 is (n - 1) / 2 everywhere.
        ((0,), lambda z, y, x: 3.5 + 10 * y + 100 * x + 0 * z, 2),
        ((2,), lambda z, y, x: z + 10 * y + 150 + 0 * x, 2),
        ((0, 1), lambda z, y, x: 3.5 + 25 + 100 * x + 0 * (z + y), 4),
        ((0, 1, 2), lambda z, y, x: 3.5 + 25 + 150 + 0 * (z + y + x), 8),
    ],
)
def test_mirroring_averages_over_all_combinations_of_flips(axes, mean_ramp, runs):
    network, _ = ramp_network()
    image = image_of(PATCH)
    scores = predict(image, network, Decoder(2), mirror_axes=axes)
    expected = image[0] + mean_ramp(*np.ogrid[: PATCH[0], : PATCH[1], : PATCH[2]])
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5, atol=1e-4)
    assert network.calls == runs


def test_mirroring_equals_the_mean_of_flipped_predictions():
    weights = np.random.default_rng(3).standard_normal(PATCH).astype(np.float32)
    network = ArithmeticNetwork(lambda tiles: np.concatenate([tiles * 0, tiles * weights], axis=1))
    image = image_of(PATCH)
    single = [np.flip(predict(np.flip(image, axes), network, Decoder(2)), axes) for axes in [(), (1,), (3,), (1, 3)]]
    both = predict(image, network, Decoder(2), mirror_axes=(0, 2))
    np.testing.assert_allclose(both, np.mean(single, axis=0), rtol=1e-5, atol=1e-5)


def test_a_network_that_reuses_its_output_array_is_mirrored_rightly():
    # OpenVINO's shared outputs are overwritten by the next call.
    ramp = ramp_network()[1]

    class Reusing(ArithmeticNetwork):
        output = np.zeros((1, 2, *PATCH), np.float32)

        def run(self, tiles):
            self.output[:, 1:] = tiles + ramp
            return self.output

    image = image_of(PATCH)
    expected = predict(image, ramp_network()[0], Decoder(2), mirror_axes=(0, 1))
    got = predict(image, Reusing(), Decoder(2), mirror_axes=(0, 1))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("decoder", [Decoder(2), Decoder(2, (1, 2))])
def test_logits_that_are_no_numbers_fail_the_case(bad, decoder):
    def function(tiles):
        logits = np.zeros((1, 2, *PATCH), np.float32)
        logits[0, 1, 2, 3, 1] = bad
        return logits

    with pytest.raises(CaseError, match="NaN or infinity in fp32") as caught:
        predict(image_of((13, 6, 9)), ArithmeticNetwork(function), decoder)
    assert caught.value.reason == "nonfinite_logits"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("decoder", [Decoder(2), Decoder(2, (1, 2))])
def test_logits_too_large_for_their_difference_or_sum_fail_the_case_without_a_warning(decoder):
    def function(tiles):
        largest = np.finfo(np.float32).max
        return np.full((1, 2, *PATCH), largest) * np.array([-1, 1], np.float32).reshape(1, 2, 1, 1, 1)

    with pytest.raises(CaseError) as caught:
        predict(image_of((13, 6, 9)), ArithmeticNetwork(function), decoder)
    assert caught.value.reason == "nonfinite_logits"


def test_progress_wraps_the_tiles_and_network_time_is_counted():
    wrapped = []

    def progress(tiles):
        wrapped.append(len(tiles))
        return iter(tiles)

    blended = infer(image_of((13, 6, 9)), ArithmeticNetwork(), Decoder(2), progress=progress)
    assert wrapped == [12]
    assert blended.network_s > 0


def test_the_image_is_left_as_it_was():
    image = image_of((13, 6, 9))
    before = image.copy()
    predict(image, ArithmeticNetwork(), Decoder(2), mirror_axes=(0, 1, 2))
    np.testing.assert_array_equal(image, before)


def overflowing(network, when):
    """Let a network give infinity in the calls of which `when` is true, as half precision does where it overflows."""

    def function(tiles):
        logits = network(tiles)
        overflowing.calls += 1
        if when(overflowing.calls):
            logits[0, 1, 2, 3, 1] = np.inf
        return logits

    overflowing.calls = 0
    broken = ArithmeticNetwork(function)
    broken.precision = "fp16"
    return broken


def test_a_tile_that_overflows_is_computed_again_in_float32():
    def identity(tiles):
        return np.concatenate([-tiles / 2, tiles / 2], axis=1)

    image = image_of((13, 6, 9))
    expected = predict(image, ArithmeticNetwork(identity), Decoder(2))
    exact = ArithmeticNetwork(identity)
    broken = overflowing(identity, lambda call: call in (2, 5))
    blended = infer(image, broken, Decoder(2), rescue=lambda: exact)
    np.testing.assert_array_equal(blended.scores, expected)
    assert (blended.rescued, exact.calls) == (2, 2)


def test_a_tile_that_overflows_in_float32_too_fails_the_case():
    def nan(tiles):
        return np.full((1, 2, *PATCH), np.nan, np.float32)

    with pytest.raises(CaseError, match="NaN or infinity in fp16, and in float32"):
        predict(image_of(PATCH), overflowing(nan, bool), Decoder(2), rescue=lambda: ArithmeticNetwork(nan))


@pytest.mark.parametrize("channels", [1, 2])
def test_tiles_without_anything_in_them_are_computed_once(channels):
    network, _ = ramp_network()
    if channels == 2:
        network = ArithmeticNetwork(lambda tiles: np.concatenate([0 * tiles[:, :1], tiles.sum(1, keepdims=True)], 1))
    image = np.full((channels, 8, 6, 20), -1.5, np.float32)
    image[-1, :, :, 10:] = 2
    image[0, 3, 3, 3] = 7  # one voxel of tissue, which no sample of every sixteenth sees
    # Tiles begin at x = 0, 2, ..., 16: at 0 and 2 there is the voxel, at 8 both values, at 4 and 6 and from 10 on one.
    scores = predict(image, network, Decoder(2))
    assert network.calls == 3 + 2
    in_pairs = ArithmeticNetwork(network._function)
    in_pairs.batch = 2  # where every tile is computed
    np.testing.assert_array_equal(scores, predict(image, in_pairs, Decoder(2)))


def test_a_uniform_tile_of_another_value_is_another_tile():
    network = ArithmeticNetwork()
    image = np.repeat(np.float32([1, 2, 1, 2]), 4)[None, None, None] * np.ones((1, 8, 6, 1), np.float32)
    scores = predict(image, network, Decoder(2), step=1.0)
    np.testing.assert_allclose(scores, 2 * image, rtol=1e-5)
    assert network.calls == 4


def test_tiles_go_to_the_network_in_batches_of_its_size():
    seen = []
    network = ArithmeticNetwork(
        lambda tiles: seen.append(tiles[:, 0, 0, 0, 0].tolist()) or np.zeros((len(tiles), 2, *PATCH))
    )
    network.batch = 3
    image = np.broadcast_to(np.arange(10, dtype=np.float32), (1, 8, 6, 10))
    infer(image, network, Decoder(2), step=0.25)
    # Seven tiles of four voxels begin at x = 0 ... 6.
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]


def test_tiles_are_laid_over_the_region_alone():
    region = Box(slice(0, 8), slice(2, 8), slice(4, 8))
    image = image_of((8, 10, 12))
    network = ArithmeticNetwork()
    scores = TiledInference(network, Decoder(2), PATCH, 0.5).run(image, region).scores
    expected = np.zeros_like(image)
    expected[:, 0:8, 2:8, 4:8] = 2 * image[:, 0:8, 2:8, 4:8]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert network.calls == 1


@pytest.mark.parametrize(("batch", "batches"), [(1, 5), (2, 3), (9, 1)])
def test_a_device_is_waited_for_once_a_batch_and_computes_tiles_of_one_value_as_well(batch, batches):
    device = StrictDevice()
    network = StrictNetwork(ArithmeticNetwork(), device, batch)
    inference = TiledInference(network, Decoder(2), PATCH, 0.5, device=device)
    scores = inference.run(np.full((1, 8, 6, 12), 3, np.float32), sums=device).scores
    assert device.memory.waits == len(network.batches) == batches
    np.testing.assert_allclose(device.download(scores), np.full((1, 8, 6, 12), 6), rtol=1e-6)


def test_a_network_that_takes_batches_computes_tiles_of_one_value_as_well():
    network = ArithmeticNetwork()
    network.batch = 2
    image = np.full((1, 8, 6, 12), 3, np.float32)
    np.testing.assert_allclose(predict(image, network, Decoder(2)), 2 * image, rtol=1e-6)
    assert network.calls == 3
