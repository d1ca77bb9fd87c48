"""Changes how many tiles an ONNX network takes at once."""

import onnx


def with_batch(network: bytes, batch: int) -> bytes:
    """Return an ONNX network that takes and gives `batch` tiles in place of one; its weights stay as they are.

    Args:
        network: as `to_onnx` or `to_fp16` gives it, with static shapes written at its ends alone.
        batch: the number of tiles.
    """
    model = onnx.load_from_string(network)
    for end in (model.graph.input[0], model.graph.output[0]):
        end.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized
