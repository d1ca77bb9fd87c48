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
    assert is_flat(samples)
    assert not is_flat([*samples, Sample(2500, 25, 103, 5, 6)])
