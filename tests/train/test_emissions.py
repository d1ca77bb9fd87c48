"""Energy and CO2 of a session."""

import time

import pytest

pytest.importorskip("codecarbon")

from flare_runtime.errors import UsageError
from flare_train.training.emissions import EmissionsMeter, check_country


def test_energy_and_co2_grow_with_time_in_the_countrys_proportion():
    check_country("FRA")
    meter = EmissionsMeter("FRA")
    first = meter.read()
    time.sleep(1)
    second = meter.read()
    meter.stop()
    assert 0 <= first[0] < second[0]
    assert 0 < second[1] / second[0] < 0.2, "France emits less than 0.2 kg a kWh"


def test_an_unknown_country_is_refused():
    with pytest.raises(UsageError, match="codecarbon knows no such country"):
        check_country("Atlantis")
