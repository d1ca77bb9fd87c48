"""A tiny model and its bundle, made in a process of its own: making them needs torch."""

import subprocess
import sys
from pathlib import Path


def make_workspace(folder: Path) -> None:
    """Write `model`, an nnU-Net model folder, and `bundle`, its bundle, into a new folder."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "benchmarks.samples.workspace", folder], check=True, cwd=root)


def _write(folder: Path) -> None:
    from benchmarks.samples.model_folders import write_model_folder
    from flare_export.bundle.conversion import Naming, export_bundle
    from flare_export.source.model_folder import ModelFolder

    model = write_model_folder(folder / "model")
    export_bundle(ModelFolder.read(model), folder / "bundle", Naming(name="tiny"))


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
