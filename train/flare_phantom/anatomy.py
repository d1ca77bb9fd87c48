"""A jittered trunk in millimetres: which tissue lies at a point, and where its lesions are.

Coordinates are millimetres from the centre of the scan in the order (z, y, x): z to the head, y to the back, x to the
patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
TissueMap: TypeAlias = npt.NDArray[np.uint8]
Site: TypeAlias = Literal["lung", "liver", "muscle"]
Axes: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]
Point: TypeAlias = tuple[float, float, float]


class Tissue(IntEnum):
    """What a voxel is made of; the value indexes HU tables."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    VISCERAL_FAT = 3
    LUNG = 4
    VESSEL = 5
    HEART = 6
    LIVER = 7
    SPLEEN = 8
    KIDNEY = 9
    AORTA = 10
    STOMACH = 11
    GAS = 12
    DISC = 13
    SPONGY_BONE = 14
    HARD_BONE = 15
    CANAL = 16
    TABLE = 17
    LIVER_VESSEL = 18


SITE_TISSUE: dict[Site, Tissue] = {"lung": Tissue.LUNG, "liver": Tissue.LIVER, "muscle": Tissue.MUSCLE}
# Diameter range (mm) of the lesions of each site: a paraspinal muscle holds no 50 mm lesion.
SITE_DIAMETER_MM: dict[Site, tuple[float, float]] = {"lung": (8.0, 50.0), "liver": (10.0, 50.0), "muscle": (8.0, 30.0)}


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class Waves:
    """A smooth random field of unit variance: a sum of plane waves."""

    wave_vectors: FloatArray  # (k, 3), radians per mm, order z, y, x
    phases: FloatArray  # (k,)

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength_mm: tuple[float, float], count: int = 8) -> Waves:
        """Draw waves of random direction and of a length within `wavelength_mm`."""
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = directions * (2 * np.pi / rng.uniform(*wavelength_mm, (count, 1)))
        return cls(vectors.astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def sample(self, axes: Axes) -> FloatArray:
        """Return the field (z, y, x) on the grid spanned by three coordinate axes in mm."""
        z, y, x = axes
        along_z = self.wave_vectors[:, :1] * z + self.phases[:, None]
        in_plane = (self.wave_vectors[:, 1:2] * y)[:, :, None] + (self.wave_vectors[:, 2:] * x)[:, None, :]
        in_plane = in_plane.reshape(len(self.phases), -1)
        # cos(a + b) = cos a cos b - sin a sin b makes the sum over waves one matrix product.
        left = np.concatenate([np.cos(along_z), -np.sin(along_z)]).T
        right = np.concatenate([np.cos(in_plane), np.sin(in_plane)])
        field = (left @ right) * np.float32(np.sqrt(2 / len(self.phases)))
        return np.asarray(field, np.float32).reshape(len(z), len(y), len(x))


@dataclass(frozen=True)
class Ellipsoid:
    """An axis-aligned ellipsoid, dented by a smooth field; lengths in mm, order (z, y, x)."""

    centre_mm: Point
    radii_mm: Point
    dents: Waves | None = None
    dent_depth: float = 0.0

    def inside(self, axes: Axes) -> tuple[tuple[slice, slice, slice], npt.NDArray[np.bool_]]:
        """Return the box of the grid that can hold the ellipsoid, and the mask (z, y, x) within that box."""
        reach = 1.0 + 3.0 * self.dent_depth
        slices = [
            slice(int(np.searchsorted(a, c - reach * r)), int(np.searchsorted(a, c + reach * r)))
            for a, c, r in zip(axes, self.centre_mm, self.radii_mm, strict=True)
        ]
        box = (slices[0], slices[1], slices[2])
        z, y, x = (a[s] for a, s in zip(axes, box, strict=True))
        scaled = [((a - c) / r) ** 2 for a, c, r in zip((z, y, x), self.centre_mm, self.radii_mm, strict=True)]
        distance = scaled[0][:, None, None] + scaled[1][None, :, None] + scaled[2][None, None, :]
        if self.dents is None or 0 in distance.shape:
            return box, distance < 1.0
        limit = np.clip(1.0 + np.float32(self.dent_depth) * self.dents.sample((z, y, x)), 0.0, reach)
        return box, distance < limit**2


@dataclass(frozen=True)
class Lesion:
    """One lesion: its place, its blob and what it adds to the HU of the tissue it sits in."""

    site: Site
    blob: Ellipsoid
    diameter_mm: float
    hu: float  # absolute in the lung, relative to the host in liver and muscle


@dataclass(frozen=True)
class Anatomy:
    """A trunk: the body's ellipses, its organs in painting order, and the fields that roughen them."""

    body_mm: tuple[float, float]  # semi-axes (y, x) of the skin
    fat_mm: float
    wall_mm: float
    rib_phase_mm: float
    spine_y_mm: float
    organs: tuple[tuple[Tissue, Ellipsoid], ...]
    vessels: tuple[Waves, Waves]
    texture: Waves

    def tissue(self, axes: Axes) -> TissueMap:
        """Return the tissue (z, y, x) on the grid spanned by three ascending coordinate axes in mm."""
        grid = self._trunk(axes)
        for tissue, shape in self.organs:
            box, inside = shape.inside(axes)
            view = grid[box]
            # Organs fill the cavity and push fat and lung aside; they never reach into the body wall.
            inside &= (view != Tissue.AIR) & (view != Tissue.FAT)
            if tissue is not Tissue.MUSCLE:
                inside &= view != Tissue.MUSCLE
            view[inside] = tissue
        self._paint_spine(grid, axes)
        return grid

    def add_vessels(self, tissue: TissueMap, axes: Axes) -> None:
        """Turn lung and liver into vessel along the curves where two smooth fields both vanish."""
        first, second = (field.sample(axes) for field in self.vessels)
        tube = first**2 + second**2 < np.float32(0.25**2)
        tissue[tube & (tissue == Tissue.LUNG)] = Tissue.VESSEL
        tissue[tube & (tissue == Tissue.LIVER)] = Tissue.LIVER_VESSEL

    def _ellipse(self, axes: Axes, shrink_mm: float) -> npt.NDArray[np.bool_]:
        z, y, x = axes
        semi_y, semi_x = (semi - shrink_mm for semi in self.body_mm)
        squared = (y / semi_y)[:, None] ** 2 + (x / semi_x)[None, :] ** 2
        waist = 1.0 + 0.05 * np.cos(2 * np.pi * z / 420.0)
        return np.asarray(squared[None] < (waist**2)[:, None, None])

    def _trunk(self, axes: Axes) -> TissueMap:
        """Paint table, fat rim, muscular wall with ribs, and the fat of the cavity."""
        z, y, x = axes
        grid = np.full((len(z), len(y), len(x)), Tissue.AIR, np.uint8)
        table = np.abs(y - (1.05 * self.body_mm[0] + 8.0)) < 4.0
        grid[:, table] = np.where(np.abs(x) < 210.0, Tissue.TABLE, Tissue.AIR)
        grid[self._ellipse(axes, 0.0)] = Tissue.FAT
        grid[self._ellipse(axes, self.fat_mm)] = Tissue.MUSCLE
        mid = self.fat_mm + 0.5 * self.wall_mm
        band = self._ellipse(axes, mid - 3.5) & ~self._ellipse(axes, mid + 3.5)
        along = z[:, None] + 0.45 * y[None, :] + self.rib_phase_mm
        rib = (np.mod(along, 26.0) < 11.0) & (along > -70.0)
        grid[band & rib[:, :, None]] = Tissue.HARD_BONE
        grid[self._ellipse(axes, self.fat_mm + self.wall_mm)] = Tissue.VISCERAL_FAT
        return grid

    def _paint_spine(self, grid: TissueMap, axes: Axes) -> None:
        """Paint vertebrae, discs, the spinal canal and the spinous processes over everything."""
        z, y, x = axes
        dy, dx = (y - self.spine_y_mm)[:, None], x[None, :]
        body = (dy / 17.0) ** 2 + (dx / 22.0) ** 2
        vertebra = np.mod(z + self.rib_phase_mm, 32.0) > 6.0
        for level, paint in ((vertebra, Tissue.SPONGY_BONE), (~vertebra, Tissue.DISC)):
            grid[level[:, None, None] & (body < 1.0)[None]] = paint
        process = (np.abs(dx) < 4.0) & (dy > 15.0) & (dy < 46.0)
        arch = (dy - 25.0) ** 2 + dx**2 < 14.0**2
        shell = vertebra[:, None, None] & ((body < 1.0) & (body > 0.8) | process | arch)[None]
        grid[shell] = Tissue.HARD_BONE
        grid[:, (dy - 25.0) ** 2 + dx**2 < 8.0**2] = Tissue.CANAL


def _organ(rng: np.random.Generator, centre: Point, radii: Point, dent_depth: float = 0.04) -> Ellipsoid:
    """Jitter an organ's place by about 5 mm and its size by about 7 %."""
    moved = np.asarray(centre) + rng.normal(0.0, 5.0, 3)
    sized = np.asarray(radii) * np.clip(rng.normal(1.0, 0.07, 3), 0.8, 1.2)
    return Ellipsoid(_point(moved), _point(sized), Waves.draw(rng, (50.0, 120.0)), dent_depth)


def _point(values: Sequence[float] | npt.NDArray[np.float64]) -> Point:
    return float(values[0]), float(values[1]), float(values[2])


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a trunk whose diaphragm lies near the scan's centre."""
    body = float(rng.uniform(105.0, 125.0)), float(rng.uniform(150.0, 178.0))
    scale = body[1] / 165.0
    spine_y = 0.42 * body[0]
    right_lung = _organ(rng, (90, -5, -72 * scale), (135, 75, 55 * scale), 0.03)
    left_lung = _organ(rng, (95, -5, 74 * scale), (135, 75, 52 * scale), 0.03)
    organs = (
        (Tissue.MUSCLE, _organ(rng, (0, spine_y + 22, -38), (400, 21, 27), 0.05)),
        (Tissue.MUSCLE, _organ(rng, (0, spine_y + 22, 38), (400, 21, 27), 0.05)),
        (Tissue.LUNG, right_lung),
        (Tissue.LUNG, left_lung),
        (Tissue.HEART, _organ(rng, (65, -28, 22), (48, 42, 46))),
        (Tissue.LIVER, _organ(rng, (-30, -12, -68 * scale), (72, 68, 72 * scale), 0.05)),
        (Tissue.STOMACH, _organ(rng, (-30, -35, 62 * scale), (40, 32, 38))),
        (Tissue.GAS, _organ(rng, (-25, -52, 62 * scale), (22, 9, 22))),
        (Tissue.SPLEEN, _organ(rng, (-20, 30, 95 * scale), (48, 34, 22))),
        (Tissue.KIDNEY, _organ(rng, (-95, 32, -62 * scale), (52, 26, 28))),
        (Tissue.KIDNEY, _organ(rng, (-88, 32, 66 * scale), (52, 26, 28))),
        (Tissue.AORTA, Ellipsoid((0, spine_y - 31, 12), (900, 11, 11))),
    )
    return Anatomy(
        body_mm=body,
        fat_mm=float(rng.uniform(10.0, 24.0)),
        wall_mm=float(rng.uniform(12.0, 17.0)),
        rib_phase_mm=float(rng.uniform(0.0, 32.0)),
        spine_y_mm=spine_y,
        organs=organs,
        vessels=(Waves.draw(rng, (30.0, 70.0)), Waves.draw(rng, (30.0, 70.0))),
        texture=Waves.draw(rng, (25.0, 90.0)),
    )


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, reach_mm: float = 80.0) -> tuple[Lesion, ...]:
    """Draw one to six lesions, each centred in its host tissue and within `reach_mm` of the scan's centre along z."""
    sites: list[Site] = ["lung", "liver", "muscle"]
    chosen = [sites[int(i)] for i in rng.choice(3, int(rng.integers(1, 7)), p=[0.4, 0.35, 0.25])]
    return tuple(_draw_lesion(rng, anatomy, site, reach_mm) for site in chosen)


def _draw_lesion(rng: np.random.Generator, anatomy: Anatomy, site: Site, reach_mm: float) -> Lesion:
    hosts = [shape for tissue, shape in anatomy.organs if tissue is SITE_TISSUE[site]]
    diameter = float(np.exp(rng.uniform(*np.log(SITE_DIAMETER_MM[site]))))
    radii = 0.5 * diameter * rng.uniform(0.8, 1.2, 3)
    hu = {"lung": rng.uniform(20.0, 60.0), "liver": rng.uniform(-50.0, -35.0), "muscle": rng.uniform(30.0, 50.0)}[site]
    blob = Ellipsoid(
        _draw_centre(rng, anatomy, hosts, SITE_TISSUE[site], reach_mm),
        _point(radii),
        Waves.draw(rng, (0.9 * diameter, 2.0 * diameter)),
        0.12,
    )
    return Lesion(site, blob, diameter, float(hu))


def _draw_centre(
    rng: np.random.Generator, anatomy: Anatomy, hosts: list[Ellipsoid], tissue: Tissue, reach_mm: float
) -> Point:
    """Draw points in a host until one shows the tissue; organs overlap, so the ellipsoid alone does not tell."""
    for _ in range(1000):
        host = hosts[int(rng.integers(len(hosts)))]
        offset = rng.uniform(-0.8, 0.8, 3) * host.radii_mm
        z, y, x = _point(np.asarray(host.centre_mm) + offset)
        at = tuple(np.array([v], np.float32) for v in (z, y, x))
        if abs(z) <= reach_mm and anatomy.tissue((at[0], at[1], at[2]))[0, 0, 0] == tissue:
            return z, y, x
    raise RuntimeError(f"no {tissue.name.lower()} within {reach_mm:g} mm of the scan's centre in this anatomy")
