"""The options of a run, checked when they are made."""

from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import Literal, TypeAlias, get_args

from flare_runtime.compute.device import check_name
from flare_runtime.errors import UsageError
from flare_runtime.imaging.file_names import MaskType, OutputType
from flare_runtime.imaging.orientation import check_orientation
from flare_runtime.imaging.plausibility import MAX_SHEAR_DEGREES
from flare_runtime.imaging.read import DEFAULT_MAX_VOXELS
from flare_runtime.model.manifest import MIN_STEP
from flare_runtime.pipeline.gpu_memory import DEFAULT_GPU_MEMORY_MIB
from flare_runtime.pipeline.postprocessing import KeepLargest
from flare_runtime.pipeline.probability_maps import ProbabilityGrid

Precision: TypeAlias = Literal["fp32", "bf16", "int8", "fp16"]
Crop: TypeAlias = Literal["nonzero", "body"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CROPS: tuple[Crop, ...] = get_args(Crop)
OUTPUT_TYPES: tuple[OutputType, ...] = (*get_args(MaskType), "dicom-sr")
KEEP_LARGEST: tuple[KeepLargest, ...] = get_args(KeepLargest)
MOST_SHEAR_DEGREES = 45
_FLAGS = (
    "tta",
    "any_intensity",
    "any_spacing",
    "keep_header_text",
    "preview",
    "page",
    "records",
    "straighten_tilt",
)
PROBABILITY_GRIDS: tuple[ProbabilityGrid, ...] = get_args(ProbabilityGrid)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run, all but the model and the files.

    Attributes:
        device: `auto` (a GPU where one can be used), `cpu`, `cuda` or `cuda:N`; several GPUs for
            a `Session`, as in `cuda:0,cuda:1`, or `cuda:all`.
        backend: `auto` or the name of an engine; see `flare_runtime.backends.registry`.
        precision: `auto`, or what the network computes in; see `flare_runtime.backends.selection.choose`.
        step: distance of neighbouring tiles as a share of the patch, 0.05 to 1; the model's own where None.
        tta: average over all flips the model was trained for, as nnU-Net does by default.
        crop: `nonzero` as nnU-Net does, or `body`: the network sees the patient alone, without the air around.
        any_intensity: segment a CT that is not in Hounsfield units, with a remark, instead of refusing it.
        keep_largest: after the model's own postprocessing keep the largest component alone: of every `label`, or of the
            whole `foreground`.
        min_volume_mm3: then remove the components of every value of the mask that are smaller.
        any_spacing: take scans however fine, coarse or long, instead of refusing what is far from the model's spacing.
        max_shear: how many degrees the axes of a scan may be off right angles, 0 to 45.
        reorient: turn every scan so that its axes x, y and z point there, such as LPS, and its mask back; None leaves
            that to the model.
        threads: for the network on the CPU; all cores where None.
        gpu_memory_mib: the most that is taken of a GPU's memory.
        max_voxels: images of more voxels are refused.
        keep_header_text: masks take the free text of their image's header, which may name the patient.
        probabilities: a run writes <case>.probabilities.npz beside each mask, on the grid of the `input` or of the
            `network`.
        preview: a run writes <case>.preview.png beside each mask: its largest lesions in three planes.
        page: a run writes <case>.html beside each mask: its lesions, its slices, and what ran.
        records: a run writes a .json record beside each mask, and in place of one that a case does not get.
        straighten_tilt: move a DICOM series of a tilted gantry onto a grid at right angles, with a remark.
        output_types: the formats of the masks that a run writes: `nifti`, and of DICOM `dicom-seg` and `rtstruct`;
            `dicom-sr` adds a structured report of the lesions.

    Raises:
        UsageError: for a value that is not allowed.
    """

    device: str = "auto"
    backend: str = "auto"
    precision: Precision | Literal["auto"] = "auto"
    step: float | None = None
    tta: bool = False
    crop: Crop = "nonzero"
    any_intensity: bool = False
    keep_largest: KeepLargest | None = None
    min_volume_mm3: float | None = None
    any_spacing: bool = False
    max_shear: float = MAX_SHEAR_DEGREES
    reorient: str | None = None
    threads: int | None = None
    gpu_memory_mib: int = DEFAULT_GPU_MEMORY_MIB
    max_voxels: int = DEFAULT_MAX_VOXELS
    keep_header_text: bool = False
    probabilities: ProbabilityGrid | None = None
    preview: bool = False
    page: bool = False
    records: bool = True
    straighten_tilt: bool = False
    output_types: tuple[OutputType, ...] = ("nifti",)

    def __post_init__(self) -> None:
        """Check every value by itself, and keep numbers as Python's own."""
        check_name(self.device)
        check_choice("precision", self.precision, ("auto", *PRECISIONS))
        check_choice("crop", self.crop, CROPS)
        if self.step is not None:
            if not (_is_number(self.step, Real) and MIN_STEP <= self.step <= 1):
                raise UsageError(f"step is {self.step}; it must be at least {MIN_STEP} and at most 1")
            object.__setattr__(self, "step", float(self.step))
        if self.keep_largest is not None:
            check_choice("keep_largest", self.keep_largest, KEEP_LARGEST)
        self._check_output_types()
        if self.probabilities is not None:
            check_choice("probabilities", self.probabilities, PROBABILITY_GRIDS)
        if self.min_volume_mm3 is not None:
            if not (_is_number(self.min_volume_mm3, Real) and 0 < self.min_volume_mm3 < inf):
                raise UsageError(f"min_volume_mm3 is {self.min_volume_mm3}; it must be a number above 0")
            object.__setattr__(self, "min_volume_mm3", float(self.min_volume_mm3))
        if not (_is_number(self.max_shear, Real) and 0 <= self.max_shear <= MOST_SHEAR_DEGREES):
            raise UsageError(f"max_shear is {self.max_shear}; it must be at least 0 and at most {MOST_SHEAR_DEGREES}")
        if self.reorient is not None:
            check_orientation("reorient", self.reorient)
        for name in ("gpu_memory_mib", "max_voxels", *(["threads"] if self.threads is not None else [])):
            number = getattr(self, name)
            if not (_is_number(number, Integral) and number >= 1):
                raise UsageError(f"{name} is {number}; it must be a whole number of at least 1")
            object.__setattr__(self, name, int(number))
        for name in _FLAGS:
            if not isinstance(flag := getattr(self, name), bool):
                raise UsageError(f"{name} is {flag!r}; it must be True or False")

    def _check_output_types(self) -> None:
        given: object = self.output_types
        if not isinstance(given, tuple | list) or not given:
            raise UsageError(f"output_types is {given!r}; give one or more of {', '.join(OUTPUT_TYPES)}, as a tuple")
        for one in given:
            check_choice("output type", one, OUTPUT_TYPES)
        if set(given) == {"dicom-sr"}:
            raise UsageError("output type dicom-sr is a report beside a mask; add nifti, dicom-seg or rtstruct")
        object.__setattr__(self, "output_types", tuple(one for one in OUTPUT_TYPES if one in given))


def _is_number(value: object, kind: type) -> bool:
    """Whether a value is a number of a kind, NumPy's included; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_choice(what: str, given: str, allowed: tuple[str, ...]) -> None:
    """Refuse a name that is not among those allowed.

    Raises:
        UsageError: with all of them.
    """
    if given not in allowed:
        raise UsageError(f"{what} {given!r} is not known; choose one of {', '.join(allowed)}")
