"""The pictures of a case that a run writes beside its mask."""

from collections.abc import Callable
from pathlib import Path

from flare_runtime.cases.case import Case
from flare_runtime.errors import CaseError, first_line
from flare_runtime.files.naming import visible
from flare_runtime.imaging.volume import Remark, Volume
from flare_runtime.model.manifest import CTScheme
from flare_runtime.run.record import CaseRecord
from flare_runtime.segmentation import Segmentation
from flare_runtime.segmenter import Segmenter


def draw_pictures(
    segmenter: Segmenter, case: Case, result: Segmentation, scan: Callable[[], Volume], record: CaseRecord
) -> dict[Path, bytes]:
    """Return the pictures that the options ask for by their files, and name them in the record.

    Where the image cannot be read again there is none, with a remark.
    """
    options = segmenter.options
    if not (options.preview or options.page):
        return {}
    from flare_runtime.pictures.page import Facts, make_page
    from flare_runtime.pictures.preview import draw_preview
    from flare_runtime.pictures.upright import Upright

    try:
        image = scan()
        why = "" if image.shape == result.mask.shape else "it was replaced"
    except (CaseError, MemoryError) as error:
        why = first_line(error)
    if why:
        text = f"there are no pictures, as the image could not be read again: {why}"
        record.remarks.append(Remark("no_pictures", text))
        return {}
    is_ct = isinstance(segmenter.bundle.manifest.channels[0].normalisation, CTScheme)
    upright, files = Upright(image, result.mask, is_ct), {}
    if options.preview:
        record.preview = visible(case.preview)
        files[case.preview] = draw_preview(upright, result.lesions)
    if options.page:
        record.page = visible(case.page)
        facts = Facts(case.name, result.lesions, result.totals, record.remarks, record.model)
        files[case.page] = make_page(upright, facts)
    return files
