"""Open a bundle's networks in cudnn: place their tensors, share out the memory, and compare them at their first use."""

from flare_runtime.backends.cudnn.layout import lay_out
from flare_runtime.backends.cudnn.network import CudnnNetwork, CudnnRuntime, load
from flare_runtime.backends.cudnn.steps import read_steps
from flare_runtime.backends.engine import Choice, Compile
from flare_runtime.backends.first_use import FirstUse
from flare_runtime.backends.gpu import GpuNetwork, share_out
from flare_runtime.backends.gpu_key import GpuEngineKey
from flare_runtime.compute.device import Device, as_gpu
from flare_runtime.compute.network import Network
from flare_runtime.model.onnx_graph import read_graph
from flare_runtime.pipeline.gpu_memory import CONTEXT_MIB, MIB

# What it takes of CuPy's pool beside its block and weights: the norms' sums and factors, a workspace.
_SMALL_ARRAYS_BYTES = 16 * MIB


def open_networks(choice: Choice) -> Compile:
    """Return what reads, compiles and checks the networks."""

    def compiled(device: Device) -> Network:
        gpu, bundle, cudnn = as_gpu(device), choice.bundle, load()
        layouts = [lay_out(read_steps(read_graph(bundle.read_network(file)))) for file in bundle.networks("fp32")]
        version = f"cuDNN {cudnn.backend_version()}, frontend {cudnn.__version__}"
        key = GpuEngineKey.of(bundle, gpu, "cudnn", version, "fp16")
        block = max(layout.block_bytes for layout in layouts)
        pool = block + sum(layout.weights_bytes for layout in layouts) + _SMALL_ARRAYS_BYTES
        budget = share_out(choice, gpu, key, CONTEXT_MIB * MIB, pool)
        first_use = FirstUse(bundle, key, required=choice.backend == key.engine)
        with first_use.watched(gpu):
            runtime = CudnnRuntime(gpu, layouts[0].logits[0], block)
            network = GpuNetwork([CudnnNetwork(layout, runtime) for layout in layouts], gpu, budget, key)
            first_use.compare(network, gpu)
        return network

    return compiled
