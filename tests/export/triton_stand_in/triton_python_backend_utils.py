"""A stand-in for what Triton's Python backend gives a model, with the signatures of its pybind11 module.

Only what models of this project use is here. Tensors go through the same conversions: bytes are put one after the
other, each behind its length, and what a model is given cannot be written to.
"""

import struct

import numpy as np

_TYPES = {np.dtype(kind): number for number, kind in enumerate((bool, "u1", "u2", "u4", "u8", "i1", "i2", "i4"), 1)}
_TYPES |= {np.dtype(kind): number for number, kind in enumerate(("i8", "f2", "f4", "f8", object), 9)}
_BYTES = 13


class TritonModelException(Exception):
    pass


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message, code=INTERNAL):
        if not isinstance(message, str) or code not in range(8):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class Tensor:
    def __init__(self, name, numpy_array):
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if not isinstance(numpy_array, np.ndarray) or numpy_array.dtype not in _TYPES:
            raise TypeError("__init__(): incompatible constructor arguments")
        self._name, self._type = name, _TYPES[numpy_array.dtype]
        content = np.ascontiguousarray(numpy_array)
        self._array = deserialized(serialized(content), content.shape) if self._type == _BYTES else content.copy()
        self._array.setflags(write=False)

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array

    def triton_dtype(self):
        return self._type

    def is_cpu(self):
        return True

    def shape(self):
        return list(self._array.shape)


class InferenceRequest:
    def __init__(self, *, inputs, requested_output_names, model_name, model_version=-1, **_others):
        self._inputs, self._names = inputs, requested_output_names

    def inputs(self):
        return self._inputs

    def requested_output_names(self):
        return sorted(set(self._names))  # in C++ a set


class InferenceResponse:
    def __init__(self, output_tensors=(), error=None, parameters=None):
        if not all(isinstance(one, Tensor) for one in output_tensors) or not isinstance(error, TritonError | None):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


class Logger:
    lines: list[str] = []  # noqa: RUF012 (of the whole process, as the server's log is)

    @staticmethod
    def log_error(message):
        Logger.lines.append(message)


def get_input_tensor_by_name(inference_request, name):
    return next((tensor for tensor in inference_request.inputs() if tensor.name() == name), None)


def serialized(array):
    return b"".join(struct.pack("<I", len(one)) + one for one in array.reshape(-1))


def deserialized(data, shape):
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    array = np.empty(len(found), np.object_)
    array[:] = found
    return array.reshape(shape)
