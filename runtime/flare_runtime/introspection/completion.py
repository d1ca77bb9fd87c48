"""The scripts by which shells complete the words of `flare-infer`."""

from pathlib import Path

SHELLS = ("bash", "zsh")


def script_path(shell: str) -> Path:
    """Return the file that a shell is to read."""
    return Path(__file__).with_name(f"flare-infer.{shell}")
