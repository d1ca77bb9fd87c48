"""What a door is: a place where files of unknown origin enter the program."""

from importlib import import_module
from pathlib import Path
from random import Random
from typing import Protocol

HERE = Path(__file__).parent
CRASHES = HERE / "crashes"


class Door(Protocol):
    """Makes odd inputs of one kind and hands them to the program.

    A door named NAME is the module tests/fuzz/NAME_door.py, with the function `open_door(workspace) -> Door` and
    `COUNT`, how many inputs `make fuzz` gives it. `workspace` holds `model`, a tiny nnU-Net model folder, and `bundle`,
    its bundle; neither may be changed. What needs memory or time once (imports, a loaded network) belongs into
    `open_door`: limits are set after it.
    """

    def make(self, rng: Random, folder: Path) -> Path:
        """Write one input, a file or a folder, as the only entry of the empty `folder` and return it.

        The same state of `rng` must give the same bytes.
        """

    def enter(self, path: Path) -> None:
        """Hand an input to the program; return or raise what a user's call would.

        Returning and any FlareError are clean; every other exception is a finding, so assertions about the result
        belong here too.
        """


def door_names() -> list[str]:
    """Return the names of all doors."""
    return sorted(path.name.removesuffix("_door.py") for path in HERE.glob("*_door.py"))


def open_door(name: str, workspace: Path) -> Door:
    """Open a door by its name."""
    door: Door = import_module(f"tests.fuzz.{name}_door").open_door(workspace)
    return door


def default_count(name: str) -> int:
    """Return how many inputs `make fuzz` gives a door."""
    return int(import_module(f"tests.fuzz.{name}_door").COUNT)
