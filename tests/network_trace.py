"""Runs the project's commands under strace, each in a fresh home: what they looked up, sent, or wrote there.

`python -m tests.network_trace` traces all of them and prints a line each; it needs strace, torch and nnU-Net.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flare_runtime.backends.engine import has_module
from tests.eval.nifti_masks import cube, write

ROOT = Path(__file__).resolve().parents[1]
# ONNX Runtime looks up its host about ten seconds after it was loaded.
LINGER_S = 15
# Loopback and other sockets are named as well; those of this machine's files (AF_UNIX) are not.
_REACHES_OUT = re.compile(r"\b(connect|sendto|sendmsg|sendmmsg)\(.*sa_family=AF_(?!UNIX)")
_SHAPE, _SPACING = (20, 24, 24), (2.5, 1.5, 1.5)
_RUN = "import sys, time; from {module} import main; code = main(sys.argv[1:]); time.sleep({linger}); sys.exit(code)"


@dataclass(frozen=True)
class Traced:
    """What a command did.

    Attributes:
        code: its exit code.
        output: of standard output and error.
        calls: system calls that reach for another machine or its name.
        written: files in its home outside this project's own cache.
    """

    code: int
    output: str
    calls: list[str]
    written: list[str]


def has_strace() -> bool:
    """Whether strace is installed and may trace here."""
    probe = ["strace", "-qq", "-e", "trace=none", "true"]
    return (
        shutil.which("strace") is not None and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    )


def traced(module: str, *arguments: object, folder: Path, linger_s: int = 0, strace: bool = True) -> Traced:
    """Run a command's `main` with nothing in its home.

    Args:
        module: the command's.
        arguments: of the command.
        folder: for temporary files and nnU-Net's folders.
        linger_s: seconds for which the process lives on after its work.
        strace: False sees no calls.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        home, trace = Path(scratch) / "home", Path(scratch) / "trace"
        home.mkdir()
        hidden = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "ORT_DISABLE_TELEMETRY")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HOME": str(home), "nnUNet_n_proc_DA": "0"}
        environment |= {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        code = _RUN.format(module=module, linger=linger_s)
        tracer = ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(trace)] if strace else []
        done = subprocess.run(
            [*tracer, sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        lines = trace.read_text(encoding="utf-8", errors="replace").splitlines() if strace else []
        calls = [line for line in lines if _REACHES_OUT.search(line)]
        ours = home / ".cache" / "flare-lite"
        files = [path for path in home.rglob("*") if not path.is_dir() and not path.is_relative_to(ours)]
        return Traced(done.returncode, done.stdout, calls, [str(path.relative_to(home)) for path in files])


def write_cases(folder: Path) -> None:
    """Write seven small cases in the layout of a training set, two of them to validate on."""
    chance = np.random.default_rng(0)
    for number in range(7):
        label = cube(_SHAPE, (5, 6, 6), (12, 15 + number % 3, 15))
        image = np.where(label, 60, -300) + chance.normal(0, 20, _SHAPE)
        write(folder / "images" / f"STS_{number:03d}_0000.nii.gz", image.astype(np.int16), _SPACING)
        write(folder / "labels" / f"STS_{number:03d}.nii.gz", label, _SPACING)


def commands(folder: Path) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield every command, as its module and arguments; each works on what those before it wrote into `folder`."""
    from tests.model_folders import write_model_folder

    write_cases(folder / "data")
    model = write_model_folder(folder / "model")
    images, labels, masks = folder / "data" / "images", folder / "data" / "labels", folder / "masks"
    case, bundle = images / "STS_000_0000.nii.gz", folder / "bundle"
    copying = ("--run", "cp=cp {input_file} {output_file}")
    infer = ("-i", images, "-o", masks, "-m", bundle)
    yield "flare_export.cli", (model, "-o", bundle, "--verify", case)
    yield "flare_export.cli", ("int8", bundle, "--calibrate", case)
    yield "flare_export.cli", ("triton", bundle, "-o", folder / "triton")
    if has_module("tensorrt_rtx"):
        yield "flare_export.cli", ("trt", bundle, "--builder", "rtx", "--target", "sm75", "sm89")
    for backend in ("openvino", "onnxruntime"):
        yield "flare_runtime.cli", (*infer, "--backend", backend)
    for words in _words_of_infer(folder, images, bundle):
        yield "flare_runtime.cli", words
    yield "flare_runtime.cli", ("status", masks, "--of", images)
    yield "flare_runtime.cli", ("merge", masks, "-o", folder / "cases.parquet", "--lesions", folder / "lesions.csv")
    yield "flare_eval.cli", ("accuracy", "--reference", labels, "--prediction", masks, "-o", folder / "scores")
    yield "flare_eval.cli", ("efficiency", "-i", images, "-o", folder / "costs", *copying)
    yield "flare_eval.cli", ("report", folder / "scores", "-o", folder / "report", "--images", images)
    yield "flare_eval.show", ("-i", images, "-r", labels, "-p", masks, "-o", folder / "overlays")
    yield "flare_phantom.phantom", ("-o", folder / "phantom", "--cases", 1, "--shape", 24, 48, 48)
    facts, plans = folder / "facts", ("--features", 4, 8, 8, "--patch", 16, 16, 16, "--name", "toy", "--workers", 1)
    raw = folder / "nnUNet_raw" / "Dataset812_Toy"
    yield "flare_train.cli", ("inspect", folder / "data", "-o", facts, "--workers", 1)
    yield "flare_train.cli", ("select", facts / "facts.jsonl", "-o", raw, "--validation", "STS_00[56]")
    yield "flare_train.cli", ("plan", 812, *plans)
    yield "flare_train.cli", ("lint", folder / "nnUNet_preprocessed" / "Dataset812_Toy" / "toy.json")
    length = ("--epochs", 1, "--last", 1, "--iterations", 1, "--val-iterations", 1, "--workers", 1, "--augmenters", 0)
    yield "flare_train.cli", ("run", 812, "--plans", "toy", "--country", "FRA", *length)
    trained = folder / "nnUNet_results" / "Dataset812_Toy" / "FlareTrainer__toy__3d_fullres"
    yield "flare_train.cli", ("report", trained, "-o", folder / "training")


def _words_of_infer(folder: Path, images: Path, bundle: Path) -> Iterator[Sequence[object]]:
    """Yield the other inputs, outputs and commands of `flare-infer`, beside a folder of images."""
    model = ("-m", bundle)
    yield from (("list",), ("info", bundle), ("doctor", *model), ("check", images, *model), ("completion", "bash"))
    table = folder / "cases.csv"
    table.write_text("images\n" + "".join(f"{image}\n" for image in sorted(images.iterdir())), encoding="utf-8")
    for options in (("--lesions", folder / "of-run.csv", "--report", folder / "run.json"), ("--resume",)):
        beside = ("--preview", "--html", "--probabilities", *options)
        yield "-i", table, "-o", folder / "listed", *model, *beside
    if has_module("pydicom") and has_module("highdicom"):
        from tests.runtime.dicom_files import Series

        types = ("--output-type", "nifti,dicom-seg,rtstruct,dicom-sr")
        yield "-i", Series().write(folder / "series"), "-o", folder / "of-series/", *model, *types
    if has_module("fsspec"):
        yield "-i", images.as_uri(), "-o", (folder / "stored").as_uri(), *model, "--resume"
    if has_module("submitit"):
        array = ("slurm", "--tasks", 2, "--executor", "local", "--wait", "--log-folder", folder / "logs")
        yield *array, "-i", images, "-o", folder / "of-array", *model
    if has_module("ray"):
        yield "ray", "--address", "local", "-i", images, "-o", folder / "of-actors", *model


def unexpected(calls: Sequence[str], command: object) -> list[str]:
    """Return the calls that a command is not to make: `ray` may speak within this machine, the others with nobody.

    To learn its own address, Ray connects a datagram socket to 8.8.8.8, by which nothing is sent.
    """
    if command != "ray":
        return list(calls)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.connect(("8.8.8.8", 53))
        here = "|".join(map(re.escape, ("127.0.0.1", "::1", own.getsockname()[0])))
    is_here = re.compile(f'"(::ffff:)?({here})"')
    asks = re.compile(r'connect\([^"]*sin_addr=inet_addr\("8\.8\.8\.8"\)')
    return [call for call in calls if "AF_INET" in call and not is_here.search(call) and not asks.search(call)]


def main() -> int:
    """Trace every command and return 0 if none spoke to anybody or left anything in its home."""
    clean = True
    with tempfile.TemporaryDirectory() as scratch:
        for module, arguments in commands(Path(scratch)):
            found = traced(module, *arguments, folder=Path(scratch), linger_s=LINGER_S)
            calls = unexpected(found.calls, arguments[0])
            counts = f"exit {found.code}, {len(calls)} network calls, {len(found.written)} files in the home"
            details = [*calls[:5], *found.written[:5]] or found.output.splitlines()[-5:] * bool(found.code)
            sys.stdout.write("\n  ".join([f"{module} {arguments[0]}: {counts}", *details]) + "\n")
            sys.stdout.flush()
            clean &= not (found.code or calls or found.written)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
