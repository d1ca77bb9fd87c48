"""What a result was made of: stamps of files, and the hash of the options that decide."""

import os
from dataclasses import asdict, make_dataclass
from hashlib import sha256

import pytest

from flare_runtime import RunOptions
from flare_runtime.cases.fingerprints import stamp_of
from flare_runtime.model.bundle import open_bundle
from flare_runtime.run.identity import Recipe


def test_a_stamp_knows_every_file_of_a_series(tmp_path):
    files = [tmp_path / f"{index}.dcm" for index in range(3)]
    for file in files:
        file.write_bytes(b"1234")
        os.utime(file, ns=(5, 7))
    stamps = [stamp_of(files)]
    assert stamps[0].startswith("12-7-")
    assert stamp_of(files[:1]) == "4-7"
    os.utime(files[1], ns=(5, 6))  # older than the newest
    stamps.append(stamp_of(files))
    assert len(set(stamps)) == 2


def test_where_it_is_computed_is_no_part_of_a_recipe(tiny_bundle):
    recipes = {Recipe.of(open_bundle(tiny_bundle), RunOptions(device=one)) for one in ("cpu", "auto")}
    assert len(recipes) == 1


def options_hash(bundle, options):
    return Recipe.of(open_bundle(bundle), options).options_sha256


def test_a_recipe_holds_the_options_that_are_given_alone(tiny_bundle):
    expected = {
        RunOptions(): b"{}",
        RunOptions(device="cpu", max_shear=0.6, output_types=("nifti",)): b"{}",
        RunOptions(precision="fp32", threads=1, step=0.75): b'{"precision":"fp32","step":0.75}',
        RunOptions(preview=True, min_volume_mm3=5): b'{"min_volume_mm3":5.0,"preview":true}',
    }
    for options, given in expected.items():
        assert options_hash(tiny_bundle, options) == sha256(given).hexdigest()


def options_later(**changed):
    """Return the options of a version that has others, or other defaults."""
    later = {**asdict(RunOptions()), **changed}
    return make_dataclass("Later", later)(**later)


@pytest.mark.parametrize(("name", "default"), [("tta", True), ("step", 0.75)])
def test_a_default_that_changes_is_another_recipe(name, default, tiny_bundle):
    later = options_hash(tiny_bundle, options_later(**{name: default}))
    assert later == options_hash(tiny_bundle, RunOptions(**{name: default}))
    assert later != options_hash(tiny_bundle, RunOptions())


def test_a_new_option_has_to_say_whether_it_decides(tiny_bundle):
    with pytest.raises(KeyError, match="new"):
        options_hash(tiny_bundle, options_later(new=1))
