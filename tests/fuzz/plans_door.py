"""The door that plans.json and dataset.json take: a network and a manifest are made of them, and traps looked for."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec

from flare_export.bundle.conversion import Naming, make_manifest
from flare_export.source.architecture import describe
from flare_export.source.json_file import read_json
from flare_export.source.model_folder import ModelFolder
from flare_export.source.plans import resolve_configuration
from flare_runtime.errors import BundleError
from flare_runtime.model.manifest import decode_manifest, encode_manifest
from flare_train.planning.lint import lint
from tests.fuzz.json_inputs import odd_json

COUNT = 10_000
_FILES = ("plans.json", "dataset.json")


class PlansDoor:
    """Goes the way of an export up to the conversion of the network, with the weights of a sound model."""

    def __init__(self, model: Path, bundle: Path) -> None:
        self._model = ModelFolder.read(model)
        self._files = tuple(decode_manifest((bundle / "manifest.json").read_bytes(), "").files)

    def make(self, rng: Random, folder: Path) -> Path:
        """Write both files, one of them odd."""
        path = folder / "model"
        path.mkdir()
        odd = rng.choice((*_FILES, _FILES[0]))
        for name, content in zip(_FILES, (self._model.plans, self._model.dataset), strict=True):
            (path / name).write_bytes(odd_json(rng, content) if name == odd else json.dumps(content).encode())
        return path

    def enter(self, path: Path) -> None:
        """Read them, and assert that what is taken gives a manifest that the runtime takes."""
        plans = read_json(path / "plans.json")
        for finding in lint(plans):
            assert "\n" not in str(finding)
        dataset = read_json(path / "dataset.json")
        configuration = resolve_configuration(plans, self._model.checkpoints[0].configuration)
        model = replace(self._model, plans=plans, dataset=dataset, configuration=configuration)
        info = describe(configuration["architecture"], model.inputs, model.outputs, model.patch)
        model.network(model.checkpoints[0])
        manifest = msgspec.structs.replace(make_manifest(model, info, Naming()), files=self._files)
        try:
            decode_manifest(encode_manifest(manifest), "manifest.json")
        except BundleError as error:
            raise AssertionError("a manifest that the runtime refuses") from error


def open_door(workspace: Path) -> PlansDoor:
    """Return the door, with everything imported."""
    door = PlansDoor(workspace / "model", workspace / "bundle")
    door.enter(workspace / "model")
    return door
