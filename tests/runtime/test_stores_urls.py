"""URLs that are refused before any store is asked."""

import pytest

from flare_runtime import Session, UsageError
from flare_runtime.cli import main
from flare_runtime.stores.mirror import Mirror

fsspec = pytest.importorskip("fsspec")


@pytest.mark.parametrize("url", ["s3://me:secret@bucket/scans", "s3://me:se/cret@bucket/a", "az://box/a?sig=secret"])
@pytest.mark.parametrize("option", ["-i", "-o", "--report", "-m"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(url, option, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["-i", str(tmp_path), "-o", str(tmp_path), option, url])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert "no user, password or signature" in said or "give a local path" in said
    assert "secret" not in said
    assert "cret@" not in said
    with pytest.raises(UsageError, match="no user, password or signature"):
        Mirror().place_of(url)


def test_a_report_and_a_model_are_local(capsys):
    with pytest.raises(SystemExit) as error:
        main(["-i", "a", "-o", "b", "--report", "s3://bucket/report.json"])
    assert error.value.code == 2
    assert "a URL; give a local path" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(tmp_path, tiny_bundle):
    if fsspec.utils.get_package_version_without_import("adlfs"):
        pytest.skip("adlfs is installed")
    with pytest.raises(UsageError, match=r"^az:// needs the package adlfs; pip install adlfs$"):
        Session(tiny_bundle).run("az://container/scans", tmp_path)
