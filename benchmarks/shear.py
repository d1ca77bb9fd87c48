"""How far axes at right angles place the corners of a scan whose header's axes are a little off: no scan is needed.

Scans that are given get a line of their own, with the shear that they have.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import cos, radians, sin
from pathlib import Path

import numpy as np

from benchmarks.tables import Cell, Column, Table, add_table_option
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.plausibility import MAX_SHEAR_DEGREES, Shear
from flare_runtime.imaging.read import read_grid

# Of which the first is what ITK still takes, and the last a small tilt of a gantry.
DEGREES = (0.006, 0.1, 0.5, MAX_SHEAR_DEGREES, 1.0, 5.0)
# (x, y, z), in voxels and mm.
GRIDS = {
    "trunk": ((512, 512, 600), (0.8, 0.8, 1.0)),
    "chest": ((512, 512, 140), (0.8, 0.8, 2.5)),
    "thigh": ((300, 300, 90), (0.98, 0.98, 3.27)),
}


def shift_mm(geometry: Geometry) -> float:
    """Return how far a corner of a grid is moved at most."""
    shear = Shear.of(geometry)
    return 0.0 if shear is None else shear.shift_mm


def leaning(geometry: Geometry, angle: float) -> Geometry:
    """Return a grid whose z axis leans towards x by so many degrees."""
    affine = np.diag([*geometry.spacing_mm[::-1], 1.0])
    affine[:3, 2] = geometry.spacing_mm[0] * np.array([sin(radians(angle)), 0, cos(radians(angle))])
    return replace(geometry, affine=affine)


def table(scans: Sequence[Path]) -> Table:
    """Return the figures."""
    rows: list[list[Cell]] = []
    for name, ((x, y, z), (dx, dy, dz)) in GRIDS.items():
        grid = Geometry(None, (dz, dy, dx), (z, y, x))
        sides = f"{name}, {x} x {y} x {z} of {dx:g} x {dy:g} x {dz:g} mm"
        rows.append([sides, *(shift_mm(leaning(grid, angle)) for angle in DEGREES), None])
    for path in scans:
        geometry = read_grid(path).geometry
        shear = Shear.of(geometry) if geometry else None
        own = f"{shear.shift_mm:.1f} mm at {shear.degrees:.1f}°" if shear else "right angles"
        rows.append([path.name.partition(".")[0], *[None] * len(DEGREES), own])
    columns = [Column("grid"), *(Column(f"mm at {angle:g}°", 2) for angle in DEGREES), Column("its own")]
    command = "python -m benchmarks.shear head_phantom_sheared.nii.gz --table FILE"
    return Table.measured(command, columns, rows, packages=("numpy",))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="*", type=Path)
    add_table_option(parser)
    args = parser.parse_args(argv)
    figures = table(args.scans)
    print(figures.markdown)
    if args.table:
        figures.write(args.table)


if __name__ == "__main__":
    main()
