"""CT-like phantoms with known lesions: seeded, of any size and spacing, drawn in millimetres."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from flare_phantom.anatomy import SITE_TISSUE, Anatomy, Axes, FloatArray, Lesion, Tissue, draw_anatomy, draw_lesions
from flare_phantom.thigh import THIGH_HU, draw_thigh
from flare_runtime.files.target import check_kind, check_targets
from flare_runtime.files.temporary import temporary_folder
from flare_runtime.imaging.file_names import image_name, mask_name
from flare_runtime.program.command_line import above_zero, exit_code_of, natural, new_parser, path_of, positive
from flare_runtime.program.terminal import open_streams

Kind: TypeAlias = Literal["trunk", "thigh"]

# Mean HU of each tissue and how far a seed may move it.
_HU: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1000, 0),
    Tissue.FAT: (-105, 8),
    Tissue.MUSCLE: (55, 6),
    Tissue.VISCERAL_FAT: (-95, 8),
    Tissue.LUNG: (-850, 20),
    Tissue.VESSEL: (30, 30),
    Tissue.HEART: (110, 15),
    Tissue.LIVER: (100, 10),
    Tissue.SPLEEN: (112, 10),
    Tissue.KIDNEY: (150, 15),
    Tissue.AORTA: (140, 15),
    Tissue.STOMACH: (20, 10),
    Tissue.GAS: (-950, 20),
    Tissue.DISC: (90, 10),
    Tissue.SPONGY_BONE: (400, 40),
    Tissue.HARD_BONE: (800, 80),
    Tissue.CANAL: (30, 5),
    Tissue.TABLE: (-250, 50),
    Tissue.LIVER_VESSEL: (150, 10),
}
_BLUR_MM = 0.7  # in-plane resolution of the scanner, as a Gaussian sigma
SHAPE = (96, 256, 256)
SPACING_MM: dict[Kind, tuple[float, float, float]] = {"trunk": (2.5, 1.5, 1.5), "thigh": (3.27, 0.98, 0.98)}
_MARGIN_MM = 50.0  # what a thigh's scan shows around the mass
_SLAB_VOXELS = 4_000_000  # what is sampled at once, so that floats never exist for the whole volume


@dataclass(frozen=True)
class Phantom:
    """A volume in HU with its lesion mask, both (z, y, x); the lesions drawn, of which the scan may cut some off."""

    image: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    lesions: tuple[Lesion, ...] = ()


def make_phantom(
    seed: int,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM["trunk"],
    kind: Kind = "trunk",
) -> Phantom:
    """Sample the trunk or thigh of `seed` on a grid; shape and spacing (z, y, x) choose the voxels, not the anatomy.

    The trunk's centre is the scan's centre. Lesions lie within 80 mm of it along z, so that a scan of 160 mm or more
    has them all. A thigh's scan is centred on its one mass. The image is int16 HU, the mask uint8 with 1 in every
    lesion.
    """
    if min(shape) < 1 or min(spacing_mm) <= 0:
        raise ValueError(f"shape must be at least 1 and spacing positive along (z, y, x); got {shape} and {spacing_mm}")
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {kind}")
    rng = np.random.default_rng(seed)
    if kind == "thigh":
        thigh = draw_thigh(rng)
        lesions, paint, means = thigh.lesions, thigh.paint, _HU | THIGH_HU
    else:
        anatomy = draw_anatomy(rng)
        lesions = draw_lesions(rng, anatomy)
        paint, means = partial(_paint, anatomy, lesions), _HU
    hu = np.array([mean + rng.uniform(-spread, spread) for mean, spread in (means[t] for t in Tissue)], np.float32)
    noise_hu = float(rng.uniform(10.0, 20.0))
    z, y, x = (_coordinates(n, step) for n, step in zip(shape, spacing_mm, strict=True))
    image, mask = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        field = paint(hu, (z[part], y, x), mask[part])
        _scan(field, rng, noise_hu, spacing_mm)
        image[part] = np.clip(np.rint(field), -1024, 3071)
    return Phantom(image, mask, spacing_mm, lesions)


def thigh_case(seed: int, spacing_mm: tuple[float, float, float] = SPACING_MM["thigh"]) -> Phantom:
    """Sample the thigh of `seed` in the box of its mass and 50 mm on each side."""
    extent_mm = draw_thigh(np.random.default_rng(seed)).extent_mm
    nz, ny, nx = (round((e + 2 * _MARGIN_MM) / s) for e, s in zip(extent_mm, spacing_mm, strict=True))
    return make_phantom(seed, (nz, ny, nx), spacing_mm, "thigh")


def write_case(phantom: Phantom, image_path: Path, label_path: Path) -> None:
    """Write image (int16) and mask (uint8) as NIfTI; array axes go to the patient's left, back and head."""
    for path, volume in ((image_path, phantom.image), (label_path, phantom.mask)):
        sz, sy, sx = phantom.spacing_mm
        affine = np.diag([-sx, -sy, sz, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(volume.shape[::-1]) - 1) / 2)
        nifti: Any = nib.Nifti1Image(volume.transpose(2, 1, 0), affine)  # type: ignore[no-untyped-call]
        nifti.set_qform(affine, code=1)
        nifti.set_sform(affine, code=1)
        nifti.header.set_xyzt_units("mm")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as scratch:  # nibabel takes compression from the name
            nib.save(nifti, scratch / path.name)
            check_kind(path)
            (scratch / path.name).replace(path)


def write_dataset(folder: Path, cases: Iterable[tuple[str, Phantom]]) -> list[str]:
    """Write cases (stem, phantom) as FLARE lays them out, imagesTr/STEM_0000.nii.gz and labelsTr/STEM.nii.gz."""
    stems = []
    for stem, phantom in cases:
        write_case(phantom, *_files(folder, stem))
        stems.append(stem)
    return stems


def _files(folder: Path, stem: str) -> tuple[Path, Path]:
    return folder / "imagesTr" / image_name(stem), folder / "labelsTr" / mask_name(stem)


def _coordinates(count: int, step_mm: float) -> FloatArray:
    return ((np.arange(count) - (count - 1) / 2) * step_mm).astype(np.float32)


def _paint(
    anatomy: Anatomy, lesions: tuple[Lesion, ...], hu: FloatArray, axes: Axes, mask: npt.NDArray[np.uint8]
) -> FloatArray:
    """Return the noiseless HU (z, y, x) of a slab and mark its lesions in `mask`."""
    tissue = anatomy.tissue(axes)
    painted = []
    for lesion in lesions:
        host = SITE_TISSUE[lesion.site]
        box, inside = lesion.blob.inside(axes)
        inside &= tissue[box] == host
        mask[box][inside] = 1
        painted.append((box, inside, lesion.hu if lesion.site == "lung" else hu[host] + lesion.hu))
    anatomy.add_vessels(tissue, axes)
    field = hu[tissue]
    for box, inside, value in painted:
        field[box][inside] = value
    field[tissue != Tissue.AIR] += 5.0 * anatomy.texture.sample(axes)[tissue != Tissue.AIR]
    return np.asarray(field, np.float32)


def _scan(field: FloatArray, rng: np.random.Generator, noise_hu: float, spacing_mm: tuple[float, float, float]) -> None:
    """Blur the slab in its plane as a scanner does, with noise of standard deviation `noise_hu` after the blur."""
    sigmas = [_BLUR_MM / spacing for spacing in spacing_mm[1:]]
    impulse = np.zeros(65)
    impulse[32] = 1.0
    gain = np.prod([np.linalg.norm(gaussian_filter1d(impulse, sigma)) for sigma in sigmas])
    noise = rng.standard_normal(field.shape, np.float32)
    noise *= np.float32(noise_hu / gain)
    field += noise
    for axis, sigma in zip((1, 2), sigmas, strict=True):
        gaussian_filter1d(field, sigma, axis=axis, output=field, truncate=3.0)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser("python -m flare_phantom", __doc__)
    parser.add_argument("-o", "--output", type=path_of, required=True, help="folder that gets imagesTr and labelsTr")
    parser.add_argument("--cases", type=positive, default=1)
    parser.add_argument("--seed", type=natural, default=0, help="seed of the first case; each next case adds one")
    parser.add_argument("--kind", choices=get_args(Kind), default="trunk")
    axes: Any = {"nargs": 3, "metavar": ("Z", "Y", "X")}
    parser.add_argument(
        "--shape", type=positive, **axes, help=f"voxels (trunk: {SHAPE}; thigh: its mass and 50 mm around)"
    )
    parser.add_argument("--spacing", type=above_zero, **axes, help=f"mm (default: {SPACING_MM})")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write the phantoms that are asked for."""
    spacing = tuple(args.spacing or SPACING_MM[args.kind])

    def case(seed: int) -> Phantom:
        if args.kind == "thigh" and args.shape is None:
            return thigh_case(seed, spacing)
        return make_phantom(seed, tuple(args.shape or SHAPE), spacing, args.kind)

    stems = {f"phantom_{seed:04d}": seed for seed in range(args.seed, args.seed + args.cases)}
    check_targets(path for stem in stems for path in _files(args.output, stem))
    write_dataset(args.output, ((stem, case(seed)) for stem, seed in stems.items()))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, write the phantoms and return the exit code."""
    open_streams()
    args = parse_args(argv)
    return exit_code_of("flare_phantom", lambda: run(args), "train")
