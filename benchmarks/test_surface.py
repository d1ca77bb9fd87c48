"""Surface Dice beside DeepMind's surface_distance, on a whole-body mask pair."""

import numpy as np
import pytest
import surface_distance
from scipy.ndimage import binary_erosion

from flare_eval.accuracy.surface import surface_distances
from flare_runtime.compute.arrays import AnyArray

SHAPE, SPACING, TOLERANCE_MM = (512, 512, 400), (0.8, 0.8, 1.5), 2.0


@pytest.fixture(scope="module")
def masks() -> tuple[AnyArray, AnyArray]:
    """Forty lesions of 5 to 20 mm all over the body, and the same eroded and moved by four voxels."""
    rng = np.random.default_rng(0)
    reference = np.zeros(SHAPE, bool)
    for _ in range(40):
        radius = rng.uniform(5, 20)
        reach = [int(radius / side) + 1 for side in SPACING]
        grid = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
        ball = sum((axis * side) ** 2 for axis, side in zip(grid, SPACING, strict=True)) <= radius**2
        corner = [rng.integers(0, n - 2 * r - 1) for n, r in zip(SHAPE, reach, strict=True)]
        reference[tuple(slice(c, c + n) for c, n in zip(corner, ball.shape, strict=True))] |= ball
    return reference, np.roll(binary_erosion(reference), 4, axis=0)


@pytest.mark.benchmark(group="surface Dice of 512 x 512 x 400")
class TestSurfaceDice:
    def test_flare(self, benchmark, masks: tuple[AnyArray, AnyArray]) -> None:
        found = benchmark(lambda: surface_distances(*masks, SPACING, TOLERANCE_MM).surface_dice(TOLERANCE_MM))
        assert 0 < found < 1

    def test_surface_distance_reference(self, benchmark, masks: tuple[AnyArray, AnyArray]) -> None:
        def run() -> float:
            distances = surface_distance.compute_surface_distances(*masks, SPACING)
            return float(surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM))

        theirs = benchmark.pedantic(run, rounds=1)
        assert theirs == pytest.approx(surface_distances(*masks, SPACING, TOLERANCE_MM).surface_dice(TOLERANCE_MM))
