"""Where the axes of an array point in the patient, and how an array is turned so that they point elsewhere."""

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.errors import UsageError

# One letter for each end of the patient's axes: left and right, back and front, feet and head.
_ENDS = ("LR", "PA", "IS")
# Every way in which a grid can be stored: where its axes x, y and z point, one letter each.
ORIENTATIONS = frozenset("".join(letters) for ends in permutations(_ENDS) for letters in product(*ends))


@dataclass(frozen=True)
class Turn:
    """Puts the axes of an array (z, y, x) in another order, and then flips some of them.

    Attributes:
        axes: axis i of the result is axis `axes[i]` of what is turned.
        flipped: which axes of the result run backwards.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def between(cls, stored: str, wanted: str) -> "Turn":
        """Return what makes an array whose axes x, y, z point to `stored` one whose axes point to `wanted`."""
        ends = [next(end for end in _ENDS if letter in end) for letter in stored]
        sources = [next(axis for axis, end in enumerate(ends) if letter in end) for letter in wanted]
        x, y, z = (2 - source for source in sources)  # the letters begin with x, arrays with z
        flip_x, flip_y, flip_z = (stored[source] != letter for source, letter in zip(sources, wanted, strict=True))
        return cls((z, y, x), (flip_z, flip_y, flip_x))

    def view(self, array: AnyArray) -> AnyArray:
        """Return a view of an array (..., z, y, x), turned; what is written into it goes into the array."""
        first = array.ndim - 3
        turned = array.transpose(*range(first), *(first + axis for axis in self.axes))
        return turned[(..., *(slice(None, None, -1 if flip else None) for flip in self.flipped))]


def check_orientation(what: str, code: object) -> None:
    """Refuse what does not say where three axes point.

    Raises:
        UsageError: calling it `what`.
    """
    if code not in ORIENTATIONS:
        raise UsageError(f"{what} is {code!r}; name an end of each of the patient's axes, L or R, P or A, I or S: LPS")


def orientation_of(affine: npt.NDArray[np.float64]) -> str:
    """Return where the axes x, y and z of an affine point, each to the end of the patient that it is nearest to.

    This is how nibabel decides it, and for axes at right angles SimpleITK, as nnU-Net's readers use them.
    """
    columns = affine[:3, :3]
    left, _, right = np.linalg.svd(columns / np.sqrt(np.sum(columns * columns, axis=0)))
    rotation = left @ right  # the axes at right angles that are nearest to these
    letters = ["", "", ""]
    for axis in np.argsort(-(rotation**2).max(axis=0), kind="stable"):
        end = int(np.abs(rotation[:, axis]).argmax())
        letters[axis] = _ENDS[end][int(rotation[end, axis] > 0)]
        rotation[end] = 0  # which is taken
    return "".join(letters)
