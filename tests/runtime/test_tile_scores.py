"""Scores of batches of tiles: what is no number is computed again, and a device is waited for once."""

import numpy as np
import pytest

from flare_runtime.compute.device import HOST
from flare_runtime.errors import BundleError, CaseError
from flare_runtime.pipeline.decoding import Decoder
from flare_runtime.pipeline.tile_scores import TileScorer, all_finite
from tests.runtime.manifests import ArithmeticNetwork
from tests.runtime.strict_device import StrictArray, StrictDevice, StrictNetwork

SHAPE = (2, 2, 3)


def tiles_of(*values):
    return np.stack([np.full((1, *SHAPE), value, np.float32) for value in values])


def overflowing(tiles):
    """Logits -v and v, but infinity where v is 2, as half precision gives where it overflows."""
    logits = np.concatenate([-tiles, tiles], axis=1)
    logits[:, 1, 1, 0, 2][tiles[:, 0, 0, 0, 0] == 2] = np.inf
    return logits


def half_precision(function):
    network = ArithmeticNetwork(function)
    network.precision = "fp16"
    return network


def test_every_tile_of_a_batch_has_its_own_scores():
    scorer = TileScorer(ArithmeticNetwork(), Decoder(2))
    scores = [one.copy() for one in scorer.scores(tiles_of(1, -3, 0))]
    assert [one.shape for one in scores] == [(1, *SHAPE)] * 3
    assert [np.unique(one).tolist() for one in scores] == [[2], [-6], [0]]
    assert scorer.network_s > 0
    assert scorer.rescued == 0


def test_only_the_tile_that_overflows_is_computed_again_in_float32():
    exact = ArithmeticNetwork()
    scorer = TileScorer(half_precision(overflowing), Decoder(2), rescue=lambda: exact)
    scores = [np.unique(one).tolist() for one in scorer.scores(tiles_of(1, 2, 3))]
    assert scores == [[2], [4], [6]]
    assert (scorer.rescued, exact.calls) == (1, 1)


def test_it_is_mirrored_as_the_others_are():
    ramp = np.arange(3, dtype=np.float32)
    exact = ArithmeticNetwork(lambda tiles: np.concatenate([0 * tiles, tiles + ramp], axis=1))
    scorer = TileScorer(half_precision(overflowing), Decoder(2), mirror_axes=(2,), rescue=lambda: exact)
    (scores,) = scorer.scores(tiles_of(2))
    assert np.unique(scores).tolist() == [3]  # 2 and the mean of 0, 1, 2 and 2, 1, 0
    assert exact.calls == 2


@pytest.mark.parametrize(
    ("rescue", "message"),
    [
        (None, "the network gave NaN or infinity in fp16"),
        (lambda: ArithmeticNetwork(overflowing), "the network gave NaN or infinity in fp16, and in float32 as well"),
    ],
)
def test_without_a_number_in_float32_the_case_fails(rescue, message):
    with pytest.raises(CaseError) as caught:
        list(TileScorer(half_precision(overflowing), Decoder(2), rescue=rescue).scores(tiles_of(2)))
    assert (caught.value.reason, str(caught.value)) == ("nonfinite_logits", message)


@pytest.mark.parametrize("axes", [(), (0,)])
def test_logits_of_another_shape_are_the_bundles_fault(axes):
    network = ArithmeticNetwork(lambda tiles: np.concatenate([tiles] * 3, axis=1))
    with pytest.raises(BundleError, match=r"logits of the shape \(1, 3, 2, 2, 3\), and \(1, 2, 2, 2, 3\) was promised"):
        list(TileScorer(network, Decoder(2), mirror_axes=axes).scores(tiles_of(1)))


def test_finite_arrays_are_told_from_others_one_by_one():
    nan, infinite, large = np.zeros((3, *SHAPE), np.float32)
    nan[0, 1, 2], infinite[1, 1, 1], large[0] = np.nan, -np.inf, np.finfo(np.float32).max
    assert all_finite([np.ones(SHAPE, np.float32), nan, infinite, large], HOST) == [True, False, False, False]


def test_a_device_is_waited_for_once_a_batch():
    device = StrictDevice()
    network = StrictNetwork(ArithmeticNetwork(), device, batch=4)
    scorer = TileScorer(network, Decoder(2), device=device, sums=device, mirror_axes=(0,))
    scores = list(scorer.scores(device.upload(tiles_of(1, 2, 3, 4))))
    assert device.memory.waits == 1
    assert [np.unique(one._array).tolist() for one in scores] == [[2], [4], [6], [8]]


def test_scores_come_to_where_they_are_summed_up():
    device = StrictDevice()
    exact = ArithmeticNetwork()
    for sums, kind in ((device, StrictArray), (HOST, np.ndarray)):
        network = StrictNetwork(half_precision(overflowing), device, batch=2)
        scorer = TileScorer(network, Decoder(2), device=device, sums=sums, rescue=lambda: exact)
        scores = list(scorer.scores(device.upload(tiles_of(1, 2))))
        assert [type(one) for one in scores] == [kind] * 2
        assert scorer.rescued == 1
