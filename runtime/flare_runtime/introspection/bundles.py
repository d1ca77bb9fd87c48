"""The bundles on this machine, and what one of them holds."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flare_runtime.errors import BundleError, UsageError
from flare_runtime.files.naming import visible
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle, default_bundle
from flare_runtime.model.manifest import Channel, CTScheme, Parity

# Names folders of bundles, as PATH names folders of programs.
VARIABLE = "FLARE_BUNDLES"


@dataclass(frozen=True)
class Found:
    """A folder or zip that is a bundle, or seems to be one.

    Attributes:
        path: where it is.
        bundle: None where it cannot be opened.
        problem: why it cannot.
    """

    path: Path
    bundle: Bundle | None
    problem: str = ""

    @classmethod
    def at(cls, path: Path) -> "Found":
        """Open what seems to be a bundle."""
        try:
            return cls(path, Bundle.open(path))
        except BundleError as error:
            return cls(path, None, str(error))


def find_bundles(places: str | None = None) -> list[Found]:
    """Return the shipped bundle, where there is one, and those in the folders that FLARE_BUNDLES names.

    Args:
        places: folders joined by colons in place of FLARE_BUNDLES'; each is a bundle or holds some.

    Raises:
        UsageError: where one of the folders cannot be read.
    """
    named = os.environ.get(VARIABLE, "") if places is None else places
    try:
        paths = [Path(place).expanduser() for place in named.split(os.pathsep) if place]
    except RuntimeError as error:  # the home of somebody who has none
        raise UsageError(f"{VARIABLE} is {named!a:.200}: {error}") from error
    found = [bundle for path in paths for bundle in _bundles_in(path)]
    with suppress(BundleError):  # of an installation without one
        found.insert(0, default_bundle())
    return [Found.at(path) for path in dict.fromkeys(path.resolve() for path in found)]


def _bundles_in(folder: Path) -> Iterator[Path]:
    if (folder / MANIFEST_NAME).exists() or folder.suffix == ".zip":
        yield folder
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{VARIABLE} names {folder}, which cannot be read ({error.strerror or error})") from error
    yield from (one for one in entries if one.suffix == ".zip" or (one / MANIFEST_NAME).exists())


def listing(found: list[Found]) -> list[str]:
    """Return a line for every bundle."""
    return [
        f"{visible(one.path)}: {visible(one.bundle.manifest.name) if one.bundle else visible(one.problem)}"
        for one in found
    ]


def description(bundle: Bundle) -> list[str]:
    """Return what a bundle is, in lines for a person."""
    manifest = bundle.manifest
    origin, network = manifest.provenance, manifest.network
    first = manifest.previous_stage and manifest.previous_stage.model
    lines = [
        f"name           {manifest.name}",
        f"path           {bundle.path}",
        f"sha256         {bundle.sha256}",
        f"licence        {manifest.licence}",
        *([f"caution        {manifest.caution}"] if manifest.caution else []),
        f"labels         {', '.join(f'{value} {name}' for value, name in sorted(manifest.label_names.items()))}",
        f"channels       {', '.join(map(_channel, manifest.channels))}",
        f"reader         {manifest.reader}{_trained_on(manifest.training_orientation)}",
        f"spacing        {' x '.join(f'{side:g}' for side in manifest.spacing_mm)} mm (z, y, x)",
        f"patch          {' x '.join(map(str, manifest.patch))} voxels (z, y, x), step {manifest.step:g}",
        f"network        {network.architecture}, {network.stages} stages, {network.parameters / 1e6:.2f} million "
        f"parameters, {network.gmac:g} GMAC a patch, {bundle.folds} fold(s)",
        f"trained        {origin.trainer}, {origin.configuration}, data set {origin.dataset}, "
        f"epochs {', '.join(map(str, origin.epochs))}",
        *([f"cascade        behind {first.provenance.configuration}, whose mask it sees"] if first else []),
        *(
            f"file           {file.name} ({file.role}{f', {file.precision}' if file.precision else ''})"
            for file in manifest.all_files
        ),
        *(f"agreement      {line}" for line in _agreements(manifest.parity)),
    ]
    return [visible(line) for line in lines]


def _trained_on(orientation: str | None) -> str:
    return f", of scans stored as {orientation}" if orientation else ""


def _channel(channel: Channel) -> str:
    scheme = channel.normalisation
    if isinstance(scheme, CTScheme):
        return f"{channel.name} (Hounsfield units, clipped to {scheme.lower:g} .. {scheme.upper:g})"
    return f"{channel.name} ({type(scheme).__name__.removesuffix('Scheme')})"


def _agreements(records: Iterable[Parity]) -> Iterator[str]:
    """Yield a line for every engine, precision and reference: over how many cases, and the lowest and highest Dice."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in records:
        groups[record.backend, record.precision, record.reference, record.scope].append(record.dice)
    for (backend, precision, reference, scope), dices in groups.items():
        spread = f"Dice {min(dices):.4f}" + (f" to {max(dices):.4f}" if len(dices) > 1 else "")
        yield f"{backend} {precision} with {reference}: {len(dices)} {scope}{'s' * (len(dices) > 1)}, {spread}"
