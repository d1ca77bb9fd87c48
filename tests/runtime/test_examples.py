"""The examples in the docstrings of what is public run, with the tiny model in the place of the default one."""

import doctest
import inspect

import numpy as np
import pytest
from tqdm import tqdm

import flare_runtime
from tests.runtime.nifti_files import blobs, write_nifti


def examples():
    """Return the code of every example by the name of what it is of."""
    found = {}
    for name in flare_runtime.__all__:
        public = getattr(flare_runtime, name)
        methods = {f"{name}.{method}": one for method, one in vars(public).items()} if inspect.isclass(public) else {}
        for path, one in {name: public, **methods}.items():
            docstring = inspect.getdoc(one) if not path.rpartition(".")[2].startswith("_") else None
            if code := "".join(example.source for example in doctest.DocTestParser().get_examples(docstring or "")):
                found[path] = code
    return found


EXAMPLES = examples()


def test_what_people_begin_with_has_an_example():
    assert {"Segmenter", "Segmenter.segment", "Session"} <= EXAMPLES.keys()


@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_an_example_runs(code, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "default").symlink_to(tiny_bundle)
    (tmp_path / "scans").mkdir()
    for path in ("scan.nii.gz", "scans/a.nii.gz"):
        write_nifti(tmp_path / path, blobs((16, 17, 18)), spacing_mm=(2.5, 1.5, 1.5))
    names = {name: getattr(flare_runtime, name) for name in flare_runtime.__all__}
    exec(code, {**names, "np": np, "tqdm": tqdm})
