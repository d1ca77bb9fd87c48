"""The paper's two networks, to the digits it prints."""

import pytest

pytest.importorskip("torch")

from flare_train.planning.network_size import network_size
from flare_train.planning.plan import S4, S6, make_plans
from tests.train.test_plan import FINGERPRINT


def size(preset, **options):
    return network_size(make_plans(FINGERPRINT, "D", "p", preset.features, **options)["configurations"]["3d_fullres"])


def test_the_four_stage_network():
    found = size(S4)
    assert found.parameters == 5_602_950
    assert found.gmac == pytest.approx(700.0, abs=0.1)
    assert round(found.tool_parameters / 1e6, 1) == 9.1
    assert found.coverage_mm == pytest.approx((307.2, 256.0, 256.0))


def test_the_six_stage_network_that_the_authors_ran():
    found = size(S6)
    assert found.parameters == 31_195_594
    assert found.gmac == pytest.approx(745.7, abs=0.1)
    # The figures in the paper's Table 2, from a tool that also counts a little for norms.
    assert round(found.tool_parameters / 1e6, 1) == 45.2
    assert found.tool_gmac == pytest.approx(1665.8, rel=0.002)


def test_memory_grows_with_the_patch():
    small, large = size(S4, patch=(64, 80, 80)), size(S4)
    assert 6 < large.memory_gib / small.memory_gib < 8.1
    assert 4 < large.memory_gib < 20


def test_every_figure_is_in_a_line():
    text = "\n".join(size(S4).lines)
    for figure in ("5,602,950", "9.1 M", "699.9 GMAC", "307 x 256 x 256 mm"):
        assert figure in text
