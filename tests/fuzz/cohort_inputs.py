"""Folders of results made to be wrong: sound ones, then records, leases, masks and what lies beside them changed."""

import json
from pathlib import Path
from random import Random

from tests.fuzz.json_inputs import odd_json
from tests.fuzz.nifti_inputs import damaged

Files = dict[str, bytes]
CASES = ("a", "b")
# They stand for the hash of the bundle in records, and in leases for the system that runs.
BUNDLE, SYSTEM = b"@BUNDLE@", b"@SYSTEM@"
_LEASE = {"token": "0" * 32, "process": "@SYSTEM@/1/1", "host": "node", "since": "2026-01-01T00:00:00Z"}
_GENERATIONS = (1, 1, 1, 2, 3, 5, 6, 999_999_999)


def write_results(files: Files, folder: Path) -> Path:
    """Write files into a new folder and return it."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def odd_results(rng: Random, sound: Files, folder: Path) -> Path:
    """Write an odd folder of results into a new folder and return it.

    Args:
        rng: decides what is odd.
        sound: what a run wrote.
        folder: is made.
    """
    files = {name: data for name, data in sound.items() if rng.random() < 0.85}
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        name = rng.choice(list(sound))
        is_json = name.endswith(".json") and rng.random() < 0.8
        files[name] = odd_json(rng, json.loads(sound[name])) if is_json else damaged(rng, sound[name])
    for name in list(files):
        if name.endswith(".json") and rng.random() < 0.3:
            files[name] = _formatted(rng, files[name])
    for case in CASES:
        for generation in rng.sample(_GENERATIONS, rng.choice((0, 0, 1, 2, 4))):
            files[f".{case}.nii.gz.{generation}.flare-lease"] = _lease(rng)
    if rng.random() < 0.1:
        files[rng.choice(_OTHERS)] = rng.choice((b"", b"{}", b"[]", b"null", b"\xff" * 9, _lease(rng)))
    write_results(files, folder)
    for path in sorted(folder.iterdir()):
        kind = rng.random()
        if kind < 0.02:
            path.unlink()
        if kind < 0.01:
            path.mkdir()
        elif kind < 0.02:
            path.symlink_to(rng.choice(("nowhere", path.name, "a.json", "b.nii.gz")))
    return folder


_OTHERS = ("a.json", "other.json", ".hidden.json", "run.json", "x.flare-lease", ".x.0.flare-lease", "a.stale.nii.gz")
_OTHERS += ("a.nii.gz", "sub.json", ".\udcfc.1.flare-lease", "\udcfc.json", "\x1b[2J.json", "lesions.csv")


def _formatted(rng: Random, data: bytes) -> bytes:
    """Return JSON as this program's records are written, so that their lesions may be left out."""
    try:
        content = json.loads(data)
        return json.dumps(content, indent=rng.choice((2, 2, None))).encode() + rng.choice((b"\n", b"\n", b"", b"\n\n"))
    except (ValueError, RecursionError):
        return data


def _lease(rng: Random) -> bytes:
    kind = rng.random()
    data = odd_json(rng, _LEASE) if kind < 0.6 else json.dumps(_LEASE).encode()
    return damaged(rng, data) if kind > 0.9 else data
