"""One HTML page of a case, which loads nothing: its lesions, its slices, and what was run."""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from flare_runtime.imaging.png import encode_png
from flare_runtime.imaging.volume import Remark
from flare_runtime.pictures.page_head import PAGE_HEAD
from flare_runtime.pictures.preview import COLOURS
from flare_runtime.pictures.upright import Upright, outlines, scaled
from flare_runtime.pipeline.lesions import LabelTotal, Lesion

# So that a page has some megabytes.
_MOST_SLICES, _SIDE, _SHADES = 150, 384, 64
_MOST_LESIONS = 200
_COLUMNS: tuple[tuple[str, Callable[[Lesion], object]], ...] = (
    ("lesion", lambda one: one.id),
    ("label", lambda one: one.name or one.label),
    ("volume, ml", lambda one: f"{one.volume_ml:.2f}"),
    ("longest, mm", lambda one: _tenths(one.diameter_mm)),
    ("across, mm", lambda one: _tenths(one.perpendicular_mm)),
    ("slice", lambda one: one.largest_slice),
    ("mean", lambda one: one.mean_intensity),
    ("SD", lambda one: one.sd_intensity),
    ("probability", lambda one: None if one.mean_probability is None else f"{one.mean_probability:.2f}"),
    ("border", lambda one: "yes" if one.touches_border else "no"),
)


@dataclass(frozen=True)
class Facts:
    """What a page says beside its pictures.

    Attributes:
        case: its name.
        lesions: the largest first.
        totals: of each label.
        remarks: what was odd.
        ran: what was run, name by name; `caution` is set apart.
    """

    case: str
    lesions: Sequence[Lesion]
    totals: Sequence[LabelTotal]
    remarks: Sequence[Remark]
    ran: Mapping[str, object]


def make_page(upright: Upright, facts: Facts) -> bytes:
    """Return the page of a case."""
    shown = _shown_slices(upright, facts.lesions)
    first = upright.voxel(_in_slice(upright, facts.lesions[0].largest_slice))[0] if facts.lesions else shown[-1] // 2
    lines = {
        "TITLE": escape(facts.case),
        "CAUTION": escape(str(facts.ran.get("caution", ""))),
        "TOTALS": escape(_totals(facts.totals)),
        "LESIONS": _lesion_rows(upright, facts.lesions, shown),
        "MORE": f"The {_MOST_LESIONS} largest are shown." if len(facts.lesions) > _MOST_LESIONS else "",
        "REMARKS": "".join(f"<li>{escape(remark.text)}</li>" for remark in facts.remarks) or "<li>none</li>",
        "RAN": "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
            for name, value in facts.ran.items()
            if name != "caution"
        ),
        "SIDES": '<b class="r">R</b><b class="l">L</b>' if upright.sides_known else "",
        "UNKNOWN": "" if upright.sides_known else "The image does not say where left and right are.",
        "SLICES": msgspec.json.encode([_slice(upright, index) for index in shown]).decode(),
        "FIRST": str(int(np.abs(np.array(shown) - first).argmin())),
        "LAST": str(len(shown) - 1),
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return PAGE_HEAD + re.sub("@([A-Z]+)@", lambda match: lines[match[1]], template).encode()


def _in_slice(upright: Upright, index: int | None) -> tuple[float, float, float]:
    stored = [0.0, 0.0, 0.0]
    stored[upright.turn.axes[0]] = index or 0
    return stored[0], stored[1], stored[2]


def _shown_slices(upright: Upright, lesions: Sequence[Lesion]) -> list[int]:
    """Return the axial slices of a page, of turned arrays: evenly spaced, and those of the largest lesions."""
    count = len(upright.labels)
    step = -(-count // _MOST_SLICES)
    of_lesions = {upright.voxel(_in_slice(upright, one.largest_slice))[0] for one in lesions[:_MOST_LESIONS]}
    return sorted({*range(0, count, step), *list(of_lesions)[:_MOST_SLICES]})


def _slice(upright: Upright, index: int) -> dict[str, object]:
    grey, labels = upright.grey(0, index), upright.plane_labels(0, index)
    rows, columns = upright.size(0, min(_SIDE, max(grey.shape)))
    step = 256 // _SHADES
    image = _data_uri(scaled(grey, (rows, columns)) // step * step)
    if not labels.any():
        return {"n": upright.stored_index(0, index), "image": image}
    fine = scaled(labels, upright.size(0, 2 * _SIDE))
    border = outlines(fine)
    # Two pixels wide, as one of them vanishes where a narrow screen shows the picture at less than half its size.
    border |= outlines(np.where(border, 0, fine))
    over = np.zeros((*fine.shape, 4), np.uint8)
    over[border, :3], over[border, 3] = COLOURS[(fine[border] - 1) % len(COLOURS)], 255
    return {"n": upright.stored_index(0, index), "image": image, "over": _data_uri(over)}


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def _tenths(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _totals(totals: Iterable[LabelTotal]) -> str:
    named = [f"{one.name or f'label {one.label}'}: {one.lesions:,}, {one.volume_ml:,.2f} ml" for one in totals]
    return "; ".join(named) or "no lesion"


def _lesion_rows(upright: Upright, lesions: Sequence[Lesion], shown: Sequence[int]) -> str:
    head = "".join(f"<th>{name}</th>" for name, _ in _COLUMNS)
    rows = [f"<thead><tr>{head}</tr></thead>"]
    for lesion in lesions[:_MOST_LESIONS]:
        index = upright.voxel(_in_slice(upright, lesion.largest_slice))[0]
        place = int(np.abs(np.array(shown) - index).argmin())
        values = [value_of(lesion) for _, value_of in _COLUMNS]
        cells = "".join(f"<td>{'' if value is None else escape(str(value))}</td>" for value in values)
        rows.append(f'<tr tabindex="0" data-slice="{place}">{cells}</tr>')
    return "".join(rows)
