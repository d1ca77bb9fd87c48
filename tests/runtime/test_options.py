"""What a run may be asked for: each value is checked when it is said, before anything is opened."""

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime import RunOptions, Segmenter
from flare_runtime.errors import UsageError
from flare_runtime.model.manifest import MIN_STEP


def test_the_defaults_are_those_of_the_command():
    options = RunOptions()
    assert (options.device, options.backend, options.precision, options.crop) == ("auto", "auto", "auto", "nonzero")
    assert (options.step, options.threads) == (None, None)
    assert (options.gpu_memory_mib, options.max_voxels) == (4096, 2_000_000_000)
    assert (options.tta, options.any_intensity, options.keep_header_text) == (False, False, False)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("device", "gpu", r"device 'gpu' is not known; choose one of auto, cpu, cuda:0"),
        ("device", 0, r"device 0 is not known"),
        ("precision", "half", r"precision 'half' is not known; choose one of auto, fp32, bf16, int8, fp16"),
        ("crop", "tight", r"crop 'tight' is not known; choose one of nonzero, body"),
        ("step", 0.04, r"step is 0\.04; it must be at least 0\.05 and at most 1"),
        ("step", 1.5, r"step is 1\.5"),
        ("step", float("nan"), r"step is nan"),
        ("step", "0.5", r"step is 0\.5; it must be"),
        ("threads", 0, r"threads is 0; it must be a whole number of at least 1"),
        ("threads", 1.5, r"threads is 1\.5"),
        ("threads", True, r"threads is True"),
        ("step", True, r"step is True"),
        ("keep_largest", "all", r"keep_largest 'all' is not known; choose one of label, foreground"),
        ("probabilities", "image", r"probabilities 'image' is not known; choose one of input, network"),
        ("min_volume_mm3", 0, r"min_volume_mm3 is 0; it must be a number above 0"),
        ("min_volume_mm3", float("inf"), r"min_volume_mm3 is inf"),
        ("min_volume_mm3", "5", r"min_volume_mm3 is 5"),
        ("gpu_memory_mib", 0, r"gpu_memory_mib is 0"),
        ("gpu_memory_mib", None, r"gpu_memory_mib is None"),
        ("max_voxels", -1, r"max_voxels is -1"),
        ("tta", "false", r"tta is 'false'; it must be True or False"),
        ("any_intensity", 1, r"any_intensity is 1"),
        ("any_spacing", "yes", r"any_spacing is 'yes'"),
        ("max_shear", -1, r"max_shear is -1"),
        ("max_shear", 46, r"max_shear is 46"),
        ("max_shear", float("nan"), r"max_shear is nan"),
        ("max_shear", True, r"max_shear is True"),
        ("reorient", "lps", r"reorient is 'lps'; name an end of each"),
        ("reorient", "LRS", r"reorient is 'LRS'"),
        ("keep_header_text", None, r"keep_header_text is None"),
        ("records", "no", r"records is 'no'; it must be True or False"),
    ],
)
def test_what_is_not_allowed_is_a_usage_error_that_says_what_is(name, value, says):
    with pytest.raises(UsageError, match=says):
        RunOptions(**{name: value})


def test_numbers_of_numpy_are_numbers():
    options = RunOptions(threads=np.int64(2), gpu_memory_mib=np.int32(512), step=np.float32(0.5))
    assert options == RunOptions(threads=2, gpu_memory_mib=512, step=0.5)
    assert [type(value) for value in (options.threads, options.gpu_memory_mib, options.step)] == [int, int, float]


@given(st.floats(allow_nan=True))
def test_a_step_is_taken_exactly_within_its_bounds(step):
    if MIN_STEP <= step <= 1:
        assert RunOptions(step=step).step == step
    else:
        with pytest.raises(UsageError):
            RunOptions(step=step)


def test_options_are_a_value_that_goes_to_other_processes():
    options = RunOptions(device="cuda:1", step=0.25, tta=True)
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(FrozenInstanceError):
        options.step = 1.0


def test_a_wrong_option_is_told_before_the_bundle_is_opened(tmp_path):
    with pytest.raises(UsageError, match="step is 3"):
        Segmenter.load(tmp_path / "there is none", RunOptions(step=3))
