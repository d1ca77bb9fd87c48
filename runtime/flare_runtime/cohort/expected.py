"""The cases that an input has, to be compared with the records that there are."""

from collections.abc import Sequence
from pathlib import Path

from flare_runtime.cases.finding import cases_in
from flare_runtime.cases.input_rules import InputRules
from flare_runtime.cohort.status import Expected, channels_in


def expected_of(source: Path, folder: Path, *, recursive: bool) -> Sequence[Expected]:
    """Return the cases that a run of an input into a folder has; how many images each has, the records there say.

    Raises:
        UsageError: where there is no case, or the folder cannot be read.
    """
    every, _ = cases_in(source, folder, channels_in(folder), rules=InputRules(recursive), locate=str)
    return [Expected(case.name, f"{folder}/{case.record.relative_to(folder)}") for case in every]
