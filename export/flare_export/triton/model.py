"""Triton's Python backend runs this: a scan comes in, its mask goes out, and nothing is written.

`flare-export triton` copies it into a model repository, beside the bundle that it runs.
"""

import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from flare_runtime import CaseError, FlareError, Geometry, RunOptions, Segmentation, Segmenter, UsageError, Volume
from flare_runtime.imaging.checks import check_volume
from flare_runtime.imaging.plausibility import Plausibility
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.write import encode_mask


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle on the device that Triton gives this instance.

        Raises:
            FlareError: where it cannot be run there; Triton then does not serve the model, and says why.
        """
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self._segmenter = Segmenter.load(Path(__file__).with_name("bundle"), RunOptions(device=device))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request with its mask, or with an error that says what is wrong with it."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        codes = pb_utils.TritonError
        try:
            result = self._segmenter.segment(_volumes(request, self._segmenter.rules.plausible))
            return pb_utils.InferenceResponse(output_tensors=_tensors(result, request.requested_output_names()))
        except (CaseError, UsageError) as error:
            return _failure(str(error), codes.INVALID_ARG)
        except FlareError as error:
            return _failure(str(error), codes.UNAVAILABLE)
        except Exception as error:  # of this request alone
            pb_utils.Logger.log_error(traceback.format_exc())
            return _failure(f"internal error: {type(error).__name__}; the server's log has more", codes.INTERNAL)


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))


def _volumes(request: Any, plausible: Plausibility) -> list[Volume]:
    """Return the scan of a request, a volume for each channel.

    Raises:
        UsageError: where the inputs do not go together.
        CaseError: where the scan cannot be trusted.
    """
    tensors = (pb_utils.get_input_tensor_by_name(request, name) for name in ("scan", "voxels", "affine"))
    scan, voxels, affine = (None if tensor is None else tensor.as_numpy() for tensor in tensors)
    if scan is not None and voxels is None and affine is None:
        return [_read(content, plausible) for content in scan.reshape(-1)]
    if scan is None and voxels is not None and affine is not None:
        return _of_arrays(voxels, affine, plausible)
    raise UsageError("give either scan, the bytes of a NIfTI file for each channel, or voxels and affine")


def _of_arrays(voxels: Any, affine: Any, plausible: Plausibility) -> list[Volume]:
    if voxels.ndim != 4 or not voxels.size or affine.shape != (4, 4):
        raise UsageError(
            f"voxels are of shape {voxels.shape} and affine of {affine.shape}; give (channels, z, y, x) and (4, 4)"
        )
    geometry = Geometry.of_affine(affine, voxels.shape[1:])
    return [check_volume(Volume(channel, geometry), plausible) for channel in voxels]


def _read(content: bytes, plausible: Plausibility) -> Volume:
    with _in_memory(content) as path:
        try:
            return read_volume(path, plausible=plausible)
        except CaseError as error:
            text = str(error).removeprefix(f"{path}: ").removeprefix(f"{path.name}: ")
            raise CaseError(error.reason, f"scan: {text}") from error


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """Yield the path of a file with this content that is on no disk."""
    with os.fdopen(os.memfd_create("scan"), "wb") as file:
        file.write(content)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _tensors(result: Segmentation, names: Sequence[str]) -> list[Any]:
    tensors = []
    if "mask" in names:
        tensors.append(pb_utils.Tensor("mask", result.mask))
    if "mask_nifti" in names:
        file = BytesIO()
        encode_mask(file, "mask.nii.gz", result.mask, result.template)
        tensors.append(pb_utils.Tensor("mask_nifti", np.array([file.getvalue()], np.object_)))
    return tensors
