"""Names for the array types that the pipeline passes on; arrays are (z, y, x), channels first."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

AnyArray: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
MaskArray: TypeAlias = npt.NDArray[np.uint8]
Shape3: TypeAlias = tuple[int, int, int]
Vector3: TypeAlias = tuple[float, float, float]
