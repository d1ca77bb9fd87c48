"""Many cases in one process of the real command: what must not grow does not."""

from benchmarks.many_cases import Sample, is_flat, measure, memory_slope, write_cases


def test_files_and_threads_stay_as_they_are(tiny_bundle, tmp_path):
    write_cases(tmp_path / "images", 120)
    _start_s, samples = measure(tmp_path / "images", tmp_path / "masks", tiny_bundle, 120)
    assert is_flat(samples), samples
    assert len(list((tmp_path / "masks").iterdir())) == 240


def test_the_slope_leaves_the_first_tenth_out():
    # By hand: 50 MiB of start, then 3 MiB more in 1,500 cases.
    samples = [Sample(100, 1, 50, 4, 6), Sample(500, 5, 100, 4, 6), Sample(1000, 10, 101, 4, 6)]
    samples += [Sample(1500, 15, 102, 4, 6), Sample(2000, 20, 103, 4, 6)]
    assert abs(memory_slope(samples) - 2) < 1e-9


def test_what_is_open_for_a_moment_is_no_leak_and_what_stays_is():
    flat = [Sample(100 * i, i, 100, 4, 6) for i in range(1, 20)]
    moment = [*flat[:12], Sample(1300, 13, 100, 5, 7), *flat[13:]]
    assert is_flat(flat)
    assert is_flat(moment)
    assert not is_flat([*flat[:10], *(Sample(s.cases, s.seconds, 100, 5, 6) for s in flat[10:])])
    assert not is_flat([*flat[:10], *(Sample(s.cases, s.seconds, 100, 4, 7) for s in flat[10:])])
