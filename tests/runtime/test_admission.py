"""Cases are let into memory where they fit beside each other, and one in any case."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.run.admission import Admission, RunLeftError


def within(most):
    return Admission(lambda needs: sum(needs) <= most)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30))
def test_together_they_take_no_more_than_there_is_unless_one_is_alone(needs):
    admission, seen = within(10), []

    def visit(numbered):
        admission.enter(*numbered)
        seen.append(admission.needs)
        admission.leave(numbered[0])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(visit, enumerate(needs)))
    assert len(seen) == len(needs)
    assert all(sum(inside) <= 10 or len(inside) == 1 for inside in seen)


def test_whoever_does_not_fit_waits_until_others_have_left():
    admission = within(10)
    admission.enter("a", 6)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(admission.enter, "b", 5)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.05)
        admission.leave("a")
        waiting.result(timeout=300)
    assert admission.needs == [5]


def test_the_need_of_whoever_is_in_is_replaced_once_it_fits():
    admission = within(10)
    admission.enter("a", 4)
    admission.enter("b", 4)
    admission.enter("a", 6)
    assert sum(admission.needs) == 10
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(admission.enter, "a", 9)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.05)
        admission.leave("b")
        waiting.result(timeout=300)
    assert admission.needs == [9]


def test_who_is_alone_waits_for_the_others_and_lets_nobody_in():
    admission = within(10)
    admission.enter("a", 1)
    with ThreadPoolExecutor(2) as threads:

        def alone():
            with admission.alone():
                entering = threads.submit(admission.enter, "b", 1)
                with pytest.raises(TimeoutError):
                    entering.result(timeout=0.05)
            return entering

        by_itself = threads.submit(alone)
        with pytest.raises(TimeoutError):
            by_itself.result(timeout=0.05)
        admission.leave("a")
        by_itself.result(timeout=300).result(timeout=300)


def test_a_run_that_is_left_lets_nobody_wait():
    admission = within(10)
    admission.enter("a", 6)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(admission.enter, "b", 5)
        admission.close()
        with pytest.raises(RunLeftError):
            waiting.result(timeout=300)
        with pytest.raises(RunLeftError), admission.alone():
            pass
