"""Errors go to other processes as they are, such as from the workers of a pool that segments cases."""

import copy
import pickle

import pytest

from flare_runtime.backends.engine import AbsentEngineError
from flare_runtime.errors import (
    BundleError,
    CaseError,
    DeviceError,
    FlareError,
    GpuMemoryError,
    LostDeviceError,
    OutputError,
    UsageError,
)

ERRORS = [
    *(kind("text") for kind in (FlareError, UsageError, DeviceError, OutputError, BundleError, AbsentEngineError)),
    CaseError("truncated", "text"),
    GpuMemoryError("text"),
    LostDeviceError("text", "traceback"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("passed_on", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_an_error_stays_the_same_on_its_way(error, passed_on):
    arrived = passed_on(error)
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
    assert arrived.exit_code == error.exit_code
