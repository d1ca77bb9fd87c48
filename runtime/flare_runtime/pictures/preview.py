"""One picture of a case: its largest lesions, a row each, in three planes with their outlines."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flare_runtime.imaging.png import encode_png
from flare_runtime.pictures.lettering import text_height, text_width, write
from flare_runtime.pictures.upright import Upright, outlines, scaled
from flare_runtime.pipeline.lesions import Lesion

_ROWS, _SIDE, _GAP = 3, 360, 6
_PLANES = (("AXIAL", "R", "L"), ("CORONAL", "R", "L"), ("SAGITTAL", "A", "P"))
# Of labels 1, 2, and so on; they are told apart by people who do not tell red from green.
COLOURS = np.array(
    [(255, 159, 28), (76, 201, 240), (247, 37, 133), (181, 228, 140), (255, 230, 109), (190, 149, 255)], np.uint8
)


def draw_preview(upright: Upright, lesions: Sequence[Lesion]) -> bytes:
    """Return a PNG of the largest lesions, or of the middle planes where there is none."""
    shown: Sequence[Lesion | None] = lesions[:_ROWS] or [None]
    width = len(_PLANES) * (_SIDE + _GAP) + _GAP
    height = len(shown) * (_SIDE + _GAP) + _GAP + text_height()
    picture = np.zeros((height, width, 3), np.uint8)
    known = "" if upright.sides_known else "  THE IMAGE DOES NOT SAY WHERE LEFT AND RIGHT ARE"
    write(picture, f"NOT FOR PATIENTS{known}", 0, 0)
    for row, lesion in enumerate(shown):
        top = text_height() + _GAP + row * (_SIDE + _GAP)
        for axis, index in enumerate(_focus(upright, lesion)):
            left = _GAP + axis * (_SIDE + _GAP)
            _draw_plane(picture[top : top + _SIDE, left : left + _SIDE], upright, axis, index)
        text = "NO LESION" if lesion is None else f"LESION {lesion.id}  {lesion.volume_ml:.2f} ML"
        write(picture, text, top, _GAP)
    return encode_png(picture)


def _focus(upright: Upright, lesion: Lesion | None) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) of turned arrays that the planes go through: the middle, or one of the lesion."""
    if lesion is None:
        z, y, x = (n // 2 for n in upright.labels.shape)
        return z, y, x
    z, y, x = upright.voxel(lesion.centre)
    if lesion.largest_slice is not None:
        stored = [0.0, 0.0, 0.0]
        stored[upright.turn.axes[0]] = lesion.largest_slice
        z = upright.voxel((stored[0], stored[1], stored[2]))[0]
    places = np.argwhere(upright.labels[z] == lesion.label)
    if len(places):  # a curved lesion may not hold its own middle
        y, x = places[np.abs(places - (y, x)).sum(axis=1).argmin()].tolist()
    return z, y, x


def _draw_plane(panel: npt.NDArray[np.uint8], upright: Upright, axis: int, index: int) -> None:
    rows, columns = upright.size(axis, _SIDE)
    top, left = (_SIDE - rows) // 2, (_SIDE - columns) // 2
    grey = scaled(upright.grey(axis, index), (rows, columns))
    labels = scaled(upright.plane_labels(axis, index), (rows, columns))
    pixels = np.repeat(grey[..., None], 3, axis=2)
    border = outlines(labels)
    pixels[border] = COLOURS[(labels[border] - 1) % len(COLOURS)]
    panel[top : top + rows, left : left + columns] = pixels
    name, first, last = _PLANES[axis]
    write(panel, f"{name} {upright.stored_index(axis, index)}", _SIDE - text_height(), 0)
    if upright.sides_known:
        middle = (_SIDE - text_height()) // 2
        write(panel, first, middle, 0)
        write(panel, last, middle, _SIDE - text_width(last))
