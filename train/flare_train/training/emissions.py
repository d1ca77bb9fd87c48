"""Energy and CO2 of a training session, by codecarbon without a network."""

from __future__ import annotations

import logging
from typing import Any

from flare_runtime.errors import UsageError


def check_country(country: str) -> None:
    """Refuse a country that codecarbon has no electricity of.

    Raises:
        UsageError: naming it.
    """
    from codecarbon.input import DataSource

    source: Any = DataSource()  # type: ignore[no-untyped-call]
    if country not in source.get_global_energy_mix_data():
        raise UsageError(f"{country}: codecarbon knows no such country; give a three-letter ISO code, such as CHN")


class EmissionsMeter:
    """Measures the machine from its making on: what the processor, memory and GPUs report, estimates elsewhere."""

    def __init__(self, country: str) -> None:
        """Start measuring; `country`, a three-letter ISO 3166 code such as CHN, is whose electricity is used."""
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it heeds `log_level`
        self._tracker: Any = OfflineEmissionsTracker(
            country_iso_code=country, save_to_file=False, log_level="critical", allow_multiple_runs=True
        )
        self._tracker.start()

    def read(self) -> tuple[float, float]:
        """Return the kWh used and the kg of CO2 equivalents emitted so far."""
        co2_kg = self._tracker.flush()
        return round(float(self._tracker._total_energy.kWh), 9), round(float(co2_kg or 0.0), 9)

    def stop(self) -> None:
        """End the measurement."""
        self._tracker.stop()
