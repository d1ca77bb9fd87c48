"""When a training ends, when it is extended, and what the learning rate does then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.errors import UsageError
from flare_train.training.schedule import Schedule, learning_rate

PAPER = Schedule()


def test_the_papers_schedule():
    ends, done = [], 0
    while not PAPER.is_over(done, []):
        done = PAPER.end_after(done)
        ends.append(done)
    assert ends == [2000, 2500, 3000, 3500, 4000, 4500, 5000]


@pytest.mark.parametrize(("done", "end"), [(0, 2000), (1999, 2000), (2000, 2500), (2100, 2500), (4999, 5000)])
def test_an_interrupted_stretch_goes_on_to_its_own_end(done, end):
    assert PAPER.end_after(done) == end


def test_the_last_stretch_is_cut_short_where_the_last_epoch_is_no_multiple():
    schedule = Schedule(first=10, extension=4, last=16)
    assert [schedule.end_after(done) for done in (0, 10, 14)] == [10, 14, 16]
    assert [done for done in range(20) if schedule.is_end(done)] == [10, 14, 16, 17, 18, 19]


@pytest.mark.parametrize(
    ("scores", "patience", "over"),
    [
        ([0.5], 1, False),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.5], 1, True),  # no better is no improvement
        ([0.6, 0.5], 1, True),
        ([0.6, 0.5], 2, False),
        ([0.6, 0.5, 0.55], 2, True),  # better than the one before, not than the best
        ([0.6, 0.5, 0.7], 2, False),
        ([], 1, False),
    ],
)
def test_extensions_end_when_validation_stops_improving(scores, patience, over):
    assert Schedule(patience=patience).is_over(2000, scores) is over


def test_the_last_epoch_ends_it_however_well_it_goes():
    assert PAPER.is_over(5000, [0.1, 0.2, 0.3])


def test_an_extension_stretches_the_poly_curve():
    assert learning_rate(1e-3, 0, 2000) == 1e-3
    assert learning_rate(1e-3, 1000, 2000) == pytest.approx(1e-3 * 0.5**0.9)
    assert learning_rate(1e-3, 1999, 2000) == pytest.approx(1.07e-6, rel=1e-2)
    # The first epoch of the extension: up again, to where the longer curve lies.
    assert learning_rate(1e-3, 2000, 2500) == pytest.approx(2.349e-4, rel=1e-3)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 100), st.integers(0, 150))
def test_stretches_are_ends_that_never_pass_the_last_epoch(first, extension, more, done):
    schedule = Schedule(first, extension, first + more)
    end = schedule.end_after(done)
    assert end == done or (done < end <= schedule.last and schedule.is_end(end))
    assert (end == done) == (done >= schedule.last)


@pytest.mark.parametrize("values", [(0, 1, 1), (5, 0, 9), (5, 1, 4), (5, 1, 9, 0)])
def test_a_schedule_that_makes_no_sense_is_refused(values):
    with pytest.raises(UsageError, match="a schedule of"):
        Schedule(*values)
