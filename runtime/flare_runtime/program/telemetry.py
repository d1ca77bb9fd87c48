"""Keeps dependencies from sending anything; it has to run before they are imported."""

import os
import sys

# ONNX Runtime looks up a host about ten seconds after it was loaded, and writes facts of the machine into the home.
_ENGINES = {"ORT_DISABLE_TELEMETRY": "1"}
# A person's own settings of codecarbon may have it send what it measures, or ask where the machine stands.
_OF_CODECARBON = {
    "CODECARBON_OUTPUT_METHODS": "",
    "CODECARBON_SAVE_TO_API": "false",
    "CODECARBON_SAVE_TO_LOGFIRE": "false",
    "CODECARBON_SAVE_TO_PROMETHEUS": "false",
    "CODECARBON_EMISSIONS_ENDPOINT": "",
    "CODECARBON_ELECTRICITYMAPS_API_TOKEN": "",
    "CODECARBON_CO2_SIGNAL_API_TOKEN": "",
}
# Even where its reports are off, a head of Ray would report just that.
_OF_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9"}
_COMMANDS = {"DO_NOT_TRACK": "1", **_OF_RAY, **_OF_CODECARBON}
# Folders of their own that they would make in the home, and what they are called in our cache.
_CACHES = {"MPLCONFIGDIR": "matplotlib", "CUPY_CACHE_DIR": "cupy", "CUDA_CACHE_PATH": "cuda"}


def silence_engines() -> None:
    """Switch off the telemetry of the engines that the runtime loads; importing `flare_runtime` does so.

    It is too late for an engine that the program has imported before.
    """
    os.environ.update(_ENGINES)
    # OpenVINO reports its import to a server through this package, from a forked process, which is a deadlock where
    # another thread is inside BLAS. Where the package is missing it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def silence_command() -> None:
    """Switch off the telemetry of what the commands of this project load, and keep their caches in ours.

    Only a command may: it changes what matplotlib, CuPy and codecarbon do in the whole process.
    """
    from flare_runtime.files.cache_folder import cache_path

    os.environ.update(_COMMANDS)
    for variable, name in _CACHES.items():
        if folder := cache_path(name):
            os.environ.setdefault(variable, str(folder))
