"""What was found in one case, and the mask of it as a file."""

from dataclasses import dataclass, replace
from pathlib import Path

from flare_runtime.compute.arrays import FloatArray, MaskArray
from flare_runtime.errors import UsageError
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.files.target import check_targets
from flare_runtime.imaging.volume import Remark, Template
from flare_runtime.imaging.write import HEAD_BYTES, encode_mask, is_mask, mask_suffixes
from flare_runtime.paths import as_path
from flare_runtime.pipeline.case_stages import PreviousResult
from flare_runtime.pipeline.lesions import LabelTotal, Lesion


@dataclass(frozen=True)
class Segmentation:
    """What was found in one case.

    Attributes:
        mask: uint8 labels (z, y, x) on the input's grid.
        lesions: the mask's connected components, the largest first and not more than MAX_LESIONS.
        timings_s: seconds by stage: `preprocess`, `network` (inside the backend), `blend`, `restore`, `measure`.
        template: the input's grid, and what else a file of the mask takes from the input.
        remarks: what was odd about the input.
        gpu_memory_mib: of a GPU: `planned` at most for this case, `measured` at most in this process so far.
        probabilities: float32 (classes or regions, z, y, x) on the input's grid, where they were asked for: of every
            class, the background being the first, or of every region, as nnU-Net's `save_probabilities` gives them.
        totals: of each label with lesions, those beyond MAX_LESIONS included.
        inputs: the files that were segmented, over which the mask is not saved; none for an array.
        keep_header_text: a file of the mask takes the free text of the input's header, which may name the patient.
    """

    mask: MaskArray
    lesions: list[Lesion]
    timings_s: dict[str, float]
    template: Template
    remarks: tuple[Remark, ...] = ()
    gpu_memory_mib: dict[str, int] | None = None
    probabilities: FloatArray | None = None
    totals: tuple[LabelTotal, ...] = ()
    inputs: tuple[Path, ...] = ()
    keep_header_text: bool = False

    def after(self, previous: PreviousResult) -> "Segmentation":
        """Return the result with what a cascade's previous stage took: time, memory, and tiles computed again."""
        timings = {stage: seconds + previous.timings_s.get(stage, 0.0) for stage, seconds in self.timings_s.items()}
        overflow = tuple(remark for remark in previous.remarks if remark.code == "overflow")
        memory = self.gpu_memory_mib
        if memory and previous.gpu_memory_mib:
            memory = {key: max(value, previous.gpu_memory_mib[key]) for key, value in memory.items()}
        return replace(self, timings_s=timings, remarks=overflow + self.remarks, gpu_memory_mib=memory)

    def save(self, path: str | Path) -> Path:
        """Write the mask with the input's geometry, and return its path; folders are made, an old mask is replaced.

        Args:
            path: a .nii.gz or .nii file; of a DICOM series also .seg.dcm or .rtstruct.dcm.

        Raises:
            UsageError: for what is no path, or whose name ends in anything else, or where DICOM is to be written of
                something else.
            CaseError: `unreferable`, where nothing can refer to the series.
            OutputError: where it cannot be written, would replace an input or a file that is no mask, or lies in a
                bundle.
        """
        target = as_path(path, "the mask")
        if not target.name.endswith(mask_suffixes()):
            raise UsageError(f"{target}: the name of a mask ends in {' or '.join(mask_suffixes())}")
        check_targets([target], self.inputs, over=is_mask, head_bytes=HEAD_BYTES)
        check_folder(target.parent)
        with replacing(target) as file:
            encode_mask(file, target.name, self.mask, self.template, keep_text=self.keep_header_text)
        return target
