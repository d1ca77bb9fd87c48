"""Compares what each backend computes of one patch with what PyTorch computes."""

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import nn

from flare_export.errors import DisagreementError
from flare_export.parity.agreement import compare
from flare_runtime.backends.openvino.network import cpu_has_bf16
from flare_runtime.backends.selection import open_network
from flare_runtime.backends.synthetic_patch import structured_patch
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.compute.network import Network
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import Parity
from flare_runtime.options import Precision, RunOptions
from flare_runtime.pipeline.decoding import Decoder

# What float32 engines may differ from PyTorch: they sum an InstanceNorm's millions of voxels in float32, which alone
# costs 1e-4 of a standard deviation a layer. A wrong graph misses both by far.
MAX_RELATIVE_DIFFERENCE = 1e-3  # of the largest logit
MIN_VOXEL_AGREEMENT = 0.999


def measure_network_parity(bundle: Bundle, networks: Sequence[nn.Module]) -> list[Parity]:
    """Run a patch through PyTorch and through every backend of this machine.

    Args:
        bundle: the exported networks.
        networks: the original ones, one per fold.

    Raises:
        DisagreementError: where a float32 backend differs by more than rounding.
    """
    manifest = bundle.manifest
    tiles = structured_patch(manifest.inputs, manifest.patch)
    with torch.inference_mode():
        logits = [network(torch.from_numpy(tiles)).numpy() for network in networks]
    expected = np.asarray(np.mean(logits, axis=0), np.float32)
    decoder = Decoder(manifest.network.outputs, manifest.regions_class_order)
    engines = (open_network(bundle, RunOptions("cpu", backend, precision)) for backend, precision in cpu_engines())
    return [_compare(engine, tiles, expected, decoder) for engine in engines]


def cpu_engines() -> list[tuple[str, Precision]]:
    """Return the backends and precisions of this machine's processor that an exported network is verified on."""
    engines: list[tuple[str, Precision]] = [("openvino", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16")]
    return engines + ([("openvino", "bf16")] if cpu_has_bf16() else [])


def _compare(engine: Network, tiles: FloatArray, expected: FloatArray, decoder: Decoder) -> Parity:
    logits = engine.run(tiles)
    difference = float(np.abs(logits - expected).max())
    agreement = compare(decoder.labels(decoder.scores(expected[0].copy())), decoder.labels(decoder.scores(logits[0])))
    name = f"{engine.backend} {engine.precision}"
    limit = MAX_RELATIVE_DIFFERENCE * max(float(np.abs(expected).max()), 1.0)
    if engine.precision == "fp32" and not (difference <= limit and agreement.voxel_agreement >= MIN_VOXEL_AGREEMENT):
        raise DisagreementError(
            f"{name} differs from PyTorch by up to {difference:.3g} in the logits (at most {limit:.3g}) and agrees on "
            f"{agreement.voxel_agreement:.4%} of the voxels; no bundle was written"
        )
    return Parity(
        backend=engine.backend,
        precision=engine.precision,
        reference=f"torch {torch.__version__} fp32",
        scope="patch",
        subject="a synthetic patch",
        max_logit_difference=difference,
        **msgspec.structs.asdict(agreement),
    )
