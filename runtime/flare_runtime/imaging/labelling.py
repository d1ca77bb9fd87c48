"""What the values of a mask mean, and which model gave them."""

from dataclasses import dataclass

from flare_runtime.model.manifest import Label


@dataclass(frozen=True)
class Labelling:
    """What a file says of a mask's meaning, where its format has room for that.

    Attributes:
        labels: each with its values; they may overlap.
        model: its name.
        bundle_sha256: of the model's bundle.
        version: of this program.
    """

    labels: tuple[Label, ...]
    model: str
    bundle_sha256: str
    version: str
