"""A jittered thigh in millimetres with one large soft-tissue mass; axes as in `flare_phantom.anatomy`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flare_phantom.anatomy import Axes, Ellipsoid, FloatArray, Lesion, Point, Tissue, Waves

# Mean HU and how far a seed may move it, where the thigh differs from the trunk: no contrast agent, a yellow marrow.
THIGH_HU: dict[Tissue, tuple[float, float]] = {
    Tissue.VESSEL: (42, 5),
    Tissue.SPONGY_BONE: (-20, 50),
    Tissue.HARD_BONE: (1300, 150),
    Tissue.TABLE: (500, 200),
}
MASS_ML = (20.0, 800.0)
_SKIN_HU = -10.0
_LONG_MM = 4000.0  # the z radius of what runs through the whole scan


@dataclass(frozen=True)
class Limb:
    """A thigh around (0, 0): skin, muscle compartment, muscles, femur and vessel bundle, all leaning by `lean`."""

    skin: Ellipsoid
    compartment: Ellipsoid
    muscles: tuple[Ellipsoid, ...]
    femur: Ellipsoid
    marrow: Ellipsoid
    bundle: Ellipsoid
    vessels: tuple[Ellipsoid, ...]
    septum: tuple[Waves, float]  # how the fat between muscles widens and thins, and its mean half width in mm
    lean: tuple[float, float]  # mm along y and x per mm along z

    def paint(self, field: FloatArray, hu: FloatArray, axes: Axes, mass_mm: FloatArray | None = None) -> None:
        """Paint the limb over `field` (z, y, x); `mass_mm`, a depth into a mass, makes skin and muscle bulge."""
        body, inner = (_depth_mm(shape, axes, self.lean) for shape in (self.skin, self.compartment))
        if mass_mm is not None:
            body, inner = _join(body, mass_mm + 7.0), _join(inner, mass_mm + 3.0)
        _blend(field, _SKIN_HU, body)
        _blend(field, hu[Tissue.FAT], body - 1.5)
        best = second = np.full(field.shape, -np.inf, np.float32)
        for muscle in self.muscles:
            depth = _depth_mm(muscle, axes, self.lean)
            second = np.maximum(second, np.minimum(best, depth))
            best = np.maximum(best, depth)
        # Fat fills what lies between two muscles, and the corners between several.
        waves, half_mm = self.septum
        gap = np.minimum(0.5 * (best - second) - half_mm * (1.0 + 1.5 * waves.sample(axes)), best + 6.0)
        _blend(field, hu[Tissue.MUSCLE], np.minimum(inner, gap))
        _blend(field, hu[Tissue.FAT], np.minimum(_depth_mm(self.bundle, axes, self.lean), inner))
        for vessel in self.vessels:
            _blend(field, hu[Tissue.VESSEL], np.minimum(_depth_mm(vessel, axes, self.lean), body - 3.0))


@dataclass(frozen=True)
class Thigh:
    """A limb with a mass, maybe the other limb and a table; `extent_mm` is the mass's box, at the scan's centre."""

    limb: Limb
    other: tuple[Limb, float] | None  # and its distance along x
    mass: tuple[Ellipsoid, ...]
    mass_hu: float  # what the mass adds to muscle
    mass_texture: tuple[Waves, float]  # and its amplitude in HU
    edge: Waves
    texture: Waves
    table_mm: tuple[float, float] | None  # y and radius of the table's curve
    centre_mm: Point = (0.0, 0.0, 0.0)
    extent_mm: Point = (0.0, 0.0, 0.0)

    @property
    def lesions(self) -> tuple[Lesion, ...]:
        """Return the mass by its largest lobe, in coordinates of the scan."""
        z, y, x = (p - c for p, c in zip(self.mass[0].centre_mm, self.centre_mm, strict=True))
        return (Lesion("muscle", replace(self.mass[0], centre_mm=(z, y, x)), max(self.extent_mm), self.mass_hu),)

    def paint(self, hu: FloatArray, axes: Axes, mask: npt.NDArray[np.uint8]) -> FloatArray:
        """Return the noiseless HU (z, y, x) on the grid of three axes in mm and mark the mass in `mask`."""
        z, y, x = (np.asarray(a + c, np.float32) for a, c in zip(axes, self.centre_mm, strict=True))
        axes = (z, y, x)
        field = np.full(mask.shape, hu[Tissue.AIR], np.float32)
        if self.table_mm is not None:
            top, radius = self.table_mm
            off = y[:, None] + (x**2 / (2 * radius))[None, :] - top
            field[:, np.abs(off) < 1.2] = hu[Tissue.TABLE]
        if self.other is not None:
            _paint_beside(*self.other, field, hu, axes)
        depth = self.mass_depth_mm(axes)
        mask[depth > 0] = 1
        self.limb.paint(field, hu, axes, depth)
        width = 4.0 + 3.0 * np.clip(self.edge.sample(axes), -1.0, 2.0)  # 1 mm where the edge is sharp, up to 10
        waves, amplitude = self.mass_texture
        _blend(field, hu[Tissue.MUSCLE] + self.mass_hu + amplitude * waves.sample(axes), depth, width)
        _paint_bone(self.limb, field, hu, axes)
        field += 3.0 * self.texture.sample(axes) * (field > -300)
        return field

    def mass_depth_mm(self, axes: Axes) -> FloatArray:
        """Return about how deep (mm) each point lies in the mass, negative outside; bone is no part of it."""
        depth = _depth_mm(self.mass[0], axes)
        for lobe in self.mass[1:]:
            depth = _join(depth, _depth_mm(lobe, axes), 6.0)
        bone = _depth_mm(self.limb.femur, axes, self.limb.lean)
        return np.asarray(np.minimum(depth, -0.5 - bone), np.float32)


def _paint_beside(limb: Limb, distance_mm: float, field: FloatArray, hu: FloatArray, axes: Axes) -> None:
    z, y, x = axes
    near = np.abs(x - distance_mm) < 1.5 * limb.skin.radii_mm[2]
    if near.any():
        part, shifted = field[:, :, near], (z, y, x[near] - np.float32(distance_mm))
        limb.paint(part, hu, shifted)
        _paint_bone(limb, part, hu, shifted)
        field[:, :, near] = part


def _paint_bone(limb: Limb, field: FloatArray, hu: FloatArray, axes: Axes) -> None:
    for tissue, shape in ((Tissue.HARD_BONE, limb.femur), (Tissue.SPONGY_BONE, limb.marrow)):
        _blend(field, hu[tissue], _depth_mm(shape, axes, limb.lean))


def _depth_mm(shape: Ellipsoid, axes: Axes, lean: tuple[float, float] = (0.0, 0.0)) -> FloatArray:
    """Return about how deep (mm) each point lies in a dented ellipsoid, negative outside."""
    z, y, x = axes
    along, across = (z[:, None] - shape.centre_mm[0]), shape.radii_mm[1:]
    dy, dx = (
        (axis[None, :] - centre - np.float32(slope) * z[:, None]) / radius
        for axis, centre, slope, radius in zip((y, x), shape.centre_mm[1:], lean, across, strict=True)
    )
    squared = ((along / shape.radii_mm[0]) ** 2 + dy**2)[:, :, None] + (dx**2)[:, None, :]
    depth = 1.0 - np.sqrt(squared, out=squared)
    if shape.dents is not None:
        depth += np.float32(shape.dent_depth) * shape.dents.sample(axes)
    return np.asarray(depth * np.float32(np.sqrt(across[0] * across[1])), np.float32)


def _join(first: FloatArray, second: FloatArray, round_mm: float = 30.0) -> FloatArray:
    """Return the depth into the union of two shapes, its seam rounded."""
    seam = np.maximum(1.0 - np.abs(first - second) / np.float32(round_mm), 0.0)
    return np.asarray(np.maximum(first, second) + np.float32(round_mm / 4) * seam**2, np.float32)


def _blend(field: FloatArray, value: FloatArray | float, depth: FloatArray, width: FloatArray | float = 1.0) -> None:
    """Move `field` to `value` where `depth` is positive, over an edge `width` mm wide."""
    field += np.clip(depth / width + 0.5, 0.0, 1.0).astype(np.float32) * (value - field)


def _tube(rng: np.random.Generator, y: float, x: float, radius: float, dent_depth: float = 0.0) -> Ellipsoid:
    radii = radius * rng.uniform(0.85, 1.18, 2)
    dents = Waves.draw(rng, (3.0 * radius, 9.0 * radius)) if dent_depth else None
    return Ellipsoid((0.0, y, x), (_LONG_MM, float(radii[0]), float(radii[1])), dents, dent_depth)


def draw_limb(rng: np.random.Generator, side: int) -> Limb:
    """Draw a thigh that thins towards the knee; `side` is +1 where the patient's left is lateral, else -1."""
    radius, fat = float(rng.uniform(68.0, 100.0)), float(rng.uniform(5.0, 26.0))
    rise, length, flat = rng.uniform(100.0, 300.0), rng.uniform(550.0, 800.0), rng.uniform(0.88, 1.12)
    core = radius - fat
    off_y, off_x = rng.uniform(-0.3, 0.3, 2) * fat

    def cone(y: float, x: float, size: float, dents: Waves, dent_depth: float) -> Ellipsoid:
        return Ellipsoid((float(rise), y, x), (float(length), size * flat, size / flat), dents, dent_depth)

    muscles = []
    for count, distance, size in ((7, 0.66, 0.36), (3, 0.27, 0.28)):
        turn = rng.uniform(0, 2 * np.pi)
        for angle in turn + 2 * np.pi * (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / count:
            reach = core * distance * rng.uniform(0.85, 1.15)
            muscles.append(_tube(rng, reach * np.sin(angle), reach * np.cos(angle), core * size, 0.16))
    femur_y, femur_x = core * rng.uniform(-0.3, 0.1), side * core * rng.uniform(0.0, 0.3)
    femur = _tube(rng, femur_y, femur_x, rng.uniform(12.0, 15.0), 0.03)
    hollow = rng.uniform(0.4, 0.65)
    marrow = replace(femur, radii_mm=(_LONG_MM, femur.radii_mm[1] * hollow, femur.radii_mm[2] * hollow))
    by, bx = core * rng.uniform(-0.3, 0.3), -side * core * rng.uniform(0.3, 0.55)
    vessels = [_tube(rng, by + dy, bx + rng.uniform(-3, 3), rng.uniform(3.0, 4.5)) for dy in (-5.0, 5.0)]
    vessels += [
        _tube(rng, (core + 0.5 * fat) * np.sin(a), (core + 0.5 * fat) * np.cos(a), rng.uniform(1.0, 2.5))
        for a in rng.uniform(0, 2 * np.pi, 3)
    ]
    return Limb(
        skin=cone(0.0, 0.0, radius, Waves.draw(rng, (120.0, 300.0)), 0.03),
        compartment=cone(float(off_y), float(off_x), core, Waves.draw(rng, (70.0, 200.0)), 0.035),
        muscles=tuple(muscles),
        femur=femur,
        marrow=marrow,
        bundle=_tube(rng, by, bx, rng.uniform(9.0, 13.0), 0.15),
        vessels=tuple(vessels),
        septum=(Waves.draw(rng, (25.0, 100.0)), float(rng.uniform(0.2, 0.8))),
        lean=(float(rng.uniform(-0.15, 0.15)), float(-side * rng.uniform(-0.03, 0.12))),
    )


def draw_thigh(rng: np.random.Generator) -> Thigh:
    """Draw a thigh and masses for it until one has a volume within `MASS_ML`."""
    side = int(rng.choice([-1, 1]))
    limb = draw_limb(rng, side)
    apart = -side * (2 * limb.skin.radii_mm[2] + rng.uniform(-12.0, 40.0))
    other = (draw_limb(rng, -side), float(apart)) if rng.random() < 0.75 else None
    below_mm, curve_mm, on_table = rng.uniform(5.0, 35.0), float(rng.uniform(250, 900)), rng.random() < 0.6
    texture = Waves.draw(rng, (25.0, 90.0))
    axis = np.arange(-160.0, 160.1, 3.0, dtype=np.float32)
    for _ in range(100):
        mass = _draw_mass(rng, limb)
        waves = Waves.draw(rng, (15.0, 70.0), 16), float(rng.uniform(2.0, 8.0))
        edge = Waves.draw(rng, (40.0, 120.0))
        thigh = Thigh(limb, other, mass, float(rng.uniform(-34, -18)), waves, edge, texture, None)
        at = np.nonzero(thigh.mass_depth_mm((axis, axis, axis)) > 0)
        if 1.1 * MASS_ML[0] < 0.027 * len(at[0]) < 0.95 * MASS_ML[1]:
            low, high = ([float(end(axis[i])) for i in at] for end in (np.min, np.max))
            centre = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
            extent = [b - a + 3.0 for a, b in zip(low, high, strict=True)]
            back = float(max(limb.skin.radii_mm[1], high[1]) + below_mm)
            return replace(
                thigh,
                table_mm=(back, curve_mm) if on_table else None,
                centre_mm=(centre[0], centre[1], centre[2]),
                extent_mm=(extent[0], extent[1], extent[2]),
            )
    raise RuntimeError(f"no mass of {MASS_ML[0]:g} to {MASS_ML[1]:g} ml in this thigh")


def _draw_mass(rng: np.random.Generator, limb: Limb) -> tuple[Ellipsoid, ...]:
    """Draw a lobe beside the femur and up to two smaller ones at its surface."""
    size = float(np.cbrt(1000 * np.exp(rng.uniform(*np.log(MASS_ML))) * 3 / (4 * np.pi)))
    z, angle = rng.uniform(-60.0, 60.0), rng.uniform(0, 2 * np.pi)
    core = limb.compartment.radii_mm[1]
    reach = min(max(13.0 + 0.9 * size * rng.uniform(0.85, 1.2), core * rng.uniform(0.3, 0.7)), 0.75 * core)
    start = np.add(limb.femur.centre_mm[1:], z * np.array(limb.lean))
    heart = np.array([z, start[0] + reach * np.sin(angle), start[1] + reach * np.cos(angle)])
    lobes: list[Ellipsoid] = []
    for share in (0.93, *rng.uniform(0.4, 0.6, rng.integers(0, 3))):
        towards = rng.standard_normal(3)
        shift = 0.0 if not lobes else 0.75 * size * towards / np.linalg.norm(towards)
        radii = share * size * np.array([1.3, 0.9, 0.9]) * rng.uniform(0.85, 1.15, 3)
        cz, cy, cx = (float(v) for v in heart + shift)
        dents = Waves.draw(rng, (1.6 * size, 4.0 * size))
        lobes.append(Ellipsoid((cz, cy, cx), (float(radii[0]), float(radii[1]), float(radii[2])), dents, 0.1))
    return tuple(lobes)
