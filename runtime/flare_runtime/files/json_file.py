"""JSON as this program writes it."""

from pathlib import Path

import msgspec

from flare_runtime.files.output import replacing


def write_json(target: Path, content: object) -> None:
    """Write an object as indented JSON, atomically.

    Raises:
        OutputError: where it cannot be written.
    """
    with replacing(target) as file:
        file.write(encode_json(content))


def encode_json(content: object) -> bytes:
    """Return an object as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
