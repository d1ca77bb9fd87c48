"""Builds engines of TensorRT for RTX for every target, without a GPU: how long it takes, how large they are.

The networks are the shipped one and one of the paper's width and patch with random weights. Each engine is built three
times, and the shortest time counts: the first loads the library.
usage: python -m benchmarks.rtx_engines [--table docs/benchmarks/rtx-engines.json]
"""

import argparse
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.tables import Column, Table, add_table_option
from flare_export.engine.builder import BuildOptions, build_engine
from flare_export.engine.inspection import describe
from flare_runtime.backends.tensorrt.library import RTX
from flare_runtime.backends.tensorrt.targets import TARGETS
from flare_runtime.compute.arrays import Shape3
from flare_runtime.model.bundle import Bundle, default_bundle

if TYPE_CHECKING:
    from torch import nn

PAPER_FEATURES = (32, 64, 128, 256)
PAPER_PATCH: Shape3 = (128, 160, 160)
_BUILDS = 3
MIB = 1 << 20
COLUMNS = (
    Column("network"),
    Column("target"),
    Column("build, s", 1),
    Column("engine, MiB", 1),
    Column("layers"),
    Column("convolutions in float16"),
    Column("weights on the GPU, MiB", 1),
    Column("memory of a run, MiB"),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_table_option(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Build and print."""
    shipped = Bundle.open(default_bundle())
    networks = {
        "shipped": (shipped.read_network(shipped.networks("fp16")[0]), shipped.manifest.patch),
        "the paper's": (paper_network(), PAPER_PATCH),
    }
    rows = [
        (name, target, *measure(onnx, patch, target)) for name, (onnx, patch) in networks.items() for target in TARGETS
    ]
    command = "python -m benchmarks.rtx_engines"
    table = Table.measured(command, COLUMNS, rows, packages=("tensorrt-rtx-cu13",))
    print(table.markdown)
    if args.table:
        table.write(args.table)


def measure(onnx: bytes, patch: Shape3, target: str) -> tuple[float, float, int, int, float, int]:
    """Return the figures of one engine that takes a tile of one channel and gives two."""
    times = []
    for _ in range(_BUILDS):
        started = perf_counter()
        built = build_engine(RTX, onnx, BuildOptions(target=target))
        times.append(perf_counter() - started)
    seen = describe(built.details).check((1, 1, *patch), (1, 2, *patch))
    sizes = len(built.engine) / MIB, seen.layers, seen.convolutions, seen.weights_bytes / MIB
    return min(times), *sizes, round(seen.memory_bytes / MIB)


def paper_network() -> bytes:
    """Return the float16 ONNX network of the paper's width and patch, with random weights."""
    from benchmarks.samples.model_folders import make_plans  # and torch
    from flare_export.source.architecture import build_network
    from flare_export.source.plans import resolve_configuration

    plans = make_plans(features=PAPER_FEATURES, convs=2)
    network = build_network(resolve_configuration(plans, "3d_fullres")["architecture"], 1, 2)
    return fp16_network(network, PAPER_PATCH)


def fp16_network(network: "nn.Module", patch: Shape3) -> bytes:
    """Return a network as float16 ONNX for a patch.

    It is traced with a small one, which takes no time: the patch stands at the ends of the graph alone.
    """
    import onnx

    from flare_export.graph.fp16_graph import to_fp16
    from flare_export.graph.onnx_graph import to_onnx
    from flare_export.graph.plain_layers import make_plain

    make_plain(network)
    model = onnx.load_from_string(to_fp16(to_onnx(network.eval(), 1, (16, 16, 16), {})))
    for end in (model.graph.input[0], model.graph.output[0]):
        for side, size in zip(end.type.tensor_type.shape.dim[2:], patch, strict=True):
            side.dim_value = size
    serialized: bytes = model.SerializeToString()
    return serialized


if __name__ == "__main__":
    run(parse_args())
