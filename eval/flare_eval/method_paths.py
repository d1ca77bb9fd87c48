"""What METHOD=PATH on a command line names: methods and their folders or files of masks."""

from collections.abc import Sequence
from pathlib import Path

from flare_runtime.errors import UsageError
from flare_runtime.files.naming import visible
from flare_runtime.imaging.file_names import strip_suffix


def named_paths(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the paths of METHOD=PATH arguments by method; a path alone is called by its last part.

    Raises:
        UsageError: where two have one name, or a name cannot be a folder's.
    """
    paths: dict[str, Path] = {}
    for text in arguments:
        name, separator, path = text.partition("=")
        if not separator:
            name, path = strip_suffix(Path(text).resolve().name), text
        name = visible(name)
        if not name or not path or not set(name).isdisjoint("/|") or name in paths:
            raise UsageError(f"{text!r}: every method needs a name of its own that can be a folder's: METHOD=PATH")
        paths[name] = Path(path)
    return paths
