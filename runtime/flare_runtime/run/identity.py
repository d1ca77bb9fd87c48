"""What a case's result was made of, by which a later run tells whether it still holds."""

from dataclasses import asdict, dataclass
from hashlib import sha256

import msgspec

from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions

# They say where and with how much a case is segmented, not what comes out.
_OF_NO_INFLUENCE = ("device", "backend", "threads", "gpu_memory_mib", "max_voxels", "records")
# What every other option was when it came and changed nothing. A value stays here whatever the default becomes: so a
# new option leaves the recipes of before as they are, and a new default is another recipe.
_WITHOUT_EFFECT: dict[str, object] = {
    "precision": "auto",
    "step": None,
    "tta": False,
    "crop": "nonzero",
    "any_intensity": False,
    "keep_largest": None,
    "min_volume_mm3": None,
    "any_spacing": False,
    "max_shear": 0.6,
    "reorient": None,
    "keep_header_text": False,
    "probabilities": None,
    "preview": False,
    "page": False,
    "straighten_tilt": False,
    "output_types": ("nifti",),
}


@dataclass(frozen=True)
class Recipe:
    """What decides a result beside the images.

    Attributes:
        bundle_sha256: of the model.
        options_sha256: of the options that decide what comes out, of those that are given; `auto` counts as such.
    """

    bundle_sha256: str
    options_sha256: str

    @classmethod
    def of(cls, bundle: Bundle, options: RunOptions) -> "Recipe":
        """Return the recipe of a model and its options."""
        decisive = ((name, value) for name, value in asdict(options).items() if name not in _OF_NO_INFLUENCE)
        given = {name: value for name, value in decisive if value != _WITHOUT_EFFECT[name]}
        return cls(bundle.sha256, sha256(msgspec.json.encode(given, order="deterministic")).hexdigest())

    def identity(self, inputs: list[str], tries: int) -> "Identity":
        """Return the identity of a case that is made by it."""
        return Identity(
            bundle_sha256=self.bundle_sha256, options_sha256=self.options_sha256, inputs=inputs, tries=tries
        )


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a record says a case was made of.

    Attributes:
        bundle_sha256, options_sha256: see `Recipe`.
        inputs: a stamp of each channel's files, from before they were read; empty where one is missing.
        outputs: a stamp of each file that was written, by its name.
        tries: how many runs have begun with the case, all but the last in vain.
    """

    bundle_sha256: str
    options_sha256: str
    inputs: list[str]
    outputs: dict[str, str] = {}
    tries: int = 1

    @property
    def recipe(self) -> Recipe:
        """What decided the result beside the images."""
        return Recipe(self.bundle_sha256, self.options_sha256)
