"""`flare-export trt`: which builder makes which engines, and where they go."""

import argparse
from pathlib import Path

from flare_runtime.backends.tensorrt.cache import EngineCache, EngineKey
from flare_runtime.backends.tensorrt.library import RTX, TENSORRT
from flare_runtime.backends.tensorrt.network import CACHE_NAME
from flare_runtime.backends.tensorrt.targets import TARGETS, target_of, why_not
from flare_runtime.compute.device import as_gpu, open_device, resolve
from flare_runtime.errors import DeviceError, OutputError, UsageError
from flare_runtime.files.cache_folder import cache_folder
from flare_runtime.model.bundle import Bundle
from flare_runtime.program.terminal import print_line


def check_usage(args: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: naming them.
    """
    if args.builder != "rtx":
        for option, given in (("--target", args.target), ("--output", args.output)):
            if given:
                raise UsageError(f"{option} is for --builder rtx; TensorRT builds for the GPU of this machine alone")
        return
    if args.verify:
        raise UsageError("--verify is not for --builder rtx, whose engines are compared at their first use")
    if args.version_compatible:
        raise UsageError("--version-compatible is not for --builder rtx, whose engines run on their own version alone")
    if args.target and args.device:
        raise UsageError(f"give --target or --device, not both: --target {args.target[0]} is built without a GPU")


def export_verified(bundle: Bundle, args: argparse.Namespace) -> None:
    """Build engines for a GPU of this machine, compare them with float32 and keep them."""
    TENSORRT.check_builder()
    from flare_export.engine.builder import BuildOptions, TensorRTBuilder, timings_name
    from flare_export.engine.export import EngineExport
    from flare_export.parity.case_files import channel_files

    if args.verify and bundle.manifest.previous_stage:
        raise UsageError("--verify: a cascade's engines are compared on synthetic patches alone; leave it out")
    cases = channel_files(args.verify, len(bundle.manifest.channels))
    device = as_gpu(open_device(resolve(args.device or "cuda:0")))
    folder = _cache_folder()
    timings = folder / timings_name(device) if args.timing_cache else None
    card = (device.gpu_name, device.compute_capability)

    def key_of(digest: str, batch: int) -> EngineKey:
        compatible = bool(args.version_compatible)
        return EngineKey.of(TENSORRT, digest, card, bundle.manifest.patch, batch, version_compatible=compatible)

    EngineExport(
        cache=EngineCache(folder, print_line),
        key_of=key_of,
        build=TensorRTBuilder(device, BuildOptions(args.workspace_mib, args.version_compatible, timings)),
        cases=cases,
        anew=args.rebuild,
        report=print_line,
    ).run(bundle, args.batch)


def export_portable(bundle: Bundle, args: argparse.Namespace) -> None:
    """Build engines for the GPUs that were named, or for the one that is here, inspect and keep them."""
    RTX.check_builder()
    from flare_export.engine.portable import PortableExport

    targets = list(dict.fromkeys(args.target or [_target_here(args.device)]))
    PortableExport(
        cache=EngineCache(args.output or _cache_folder(), print_line),
        carried=args.output is not None,
        workspace_mib=args.workspace_mib,
        anew=args.rebuild,
        report=print_line,
    ).run(bundle, targets, args.batch)
    print_line("no engine ran yet: flare-infer --backend tensorrt-rtx compares each with float32 at its first use")
    if args.output:
        print_line("to carry them: copy the .engine files to ~/.cache/flare-lite/tensorrt there, as files of your own")


def _target_here(device: str | None) -> str:
    """Return the target of a GPU of this machine.

    Raises:
        UsageError: where there is none and none was asked for.
        DeviceError: where the one that was asked for cannot be used, or no engine can be built for it.
    """
    try:
        target = target_of(as_gpu(open_device(resolve(device or "cuda:0"))).compute_capability)
    except DeviceError as error:
        if device:
            raise
        known = ", ".join(TARGETS)
        why = str(error).partition(";")[0]
        raise UsageError(f"no GPU can be used here ({why}); name the kind with --target: {known}") from error
    if reason := why_not(target):
        raise DeviceError(f"{device or 'cuda:0'}: {reason}; use --target for another machine, or --builder tensorrt")
    return target


def _cache_folder() -> Path:
    folder = cache_folder(CACHE_NAME)
    if folder is None:
        raise OutputError("no folder for engines that is yours alone; set XDG_CACHE_HOME to a place for one")
    return folder
