"""NIfTI files that cannot be trusted: each is refused by name, and no bytes whatever do anything worse."""

import gzip
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_volume
from tests.runtime.nifti_files import nifti_bytes, noise, sform_fields, write_nifti
from tests.runtime.test_nifti import PACKED, PLAIN, SPACING, VOXELS, flipped, read_or_reason

# --- refused files


def other_type(code, bits, item):
    """Return a file of a type that is no real number per voxel; `item` is one voxel's bytes."""
    data = nifti_bytes(VOXELS, datatype=code, bitpix=bits)
    return data[:352] + item * VOXELS.size


REFUSED = {
    "truncated gzip": (PACKED[: len(PACKED) // 2], "truncated"),
    "gzip without its trailer": (PACKED[:-8], "truncated"),
    "gzip header only": (PACKED[:10], "truncated"),
    "one voxel byte missing": (PLAIN[:-1], "truncated"),
    "half of the voxels": (PLAIN[: len(PLAIN) // 2], "truncated"),
    "no voxels": (PLAIN[:352], "truncated"),
    "too few voxels in a whole gzip stream": (gzip.compress(PLAIN[:-1]), "truncated"),
    "wrong CRC": (flipped(PACKED, -8), "corrupt"),
    "wrong length": (flipped(PACKED, -1), "corrupt"),
    "flipped bit": (flipped(gzip.compress(PLAIN, 0), 500), "corrupt"),
    "wrong CRC of garbage after the voxels": (flipped(gzip.compress(PLAIN + b"garbage"), -8), "corrupt"),
    "empty": (b"", "not_nifti"),
    "empty gzip stream": (gzip.compress(b""), "not_nifti"),
    "three bytes": (b"\x5c\x01\x00", "not_nifti"),
    "text": (b"Patient name: nobody\n" * 100, "not_nifti"),
    "compressed text": (gzip.compress(b"Patient name: nobody\n" * 100), "not_nifti"),
    "half a header": (PLAIN[:200], "not_nifti"),
    "header of a pair of files": (nifti_bytes(VOXELS, magic=b"ni1"), "not_nifti"),
    "Analyze 7.5": (nifti_bytes(VOXELS, magic=b""), "not_nifti"),
    "32767 cubed in a small file": (gzip.compress(nifti_bytes(VOXELS, dim=[3, *[32767] * 3, 1, 1, 1, 1])), "too_large"),
    "a thousand times what the file can hold": (
        gzip.compress(nifti_bytes(VOXELS, dim=[3, 1200, 1200, 1200, 1, 1, 1, 1])),
        "truncated",
    ),
    "negative dimension": (nifti_bytes(VOXELS, dim=[3, 8, -7, 6, 1, 1, 1, 1]), "bad_dimensions"),
    "zero dimension": (nifti_bytes(VOXELS, dim=[3, 8, 7, 0, 1, 1, 1, 1]), "bad_dimensions"),
    "0-D": (nifti_bytes(VOXELS, dim=[0] * 8), "bad_dimensions"),
    "2-D": (nifti_bytes(VOXELS, dim=[2, 8, 42, 1, 1, 1, 1, 1]), "bad_dimensions"),
    "4-D": (nifti_bytes(VOXELS, dim=[4, 8, 7, 3, 2, 1, 1, 1]), "bad_dimensions"),
    "RGB": (other_type(128, 24, b"abc"), "unsupported_type"),
    "RGBA": (other_type(2304, 32, b"abcd"), "unsupported_type"),
    "complex": (other_type(32, 64, bytes(8)), "unsupported_type"),
    "binary": (other_type(1, 1, b"\1"), "unsupported_type"),
    "float128": (other_type(1536, 128, bytes(16)), "unsupported_type"),
    "no type": (other_type(0, 0, b"ab"), "unsupported_type"),
    "zero spacing": (nifti_bytes(VOXELS, pixdim=[1, 0, 2, 3, 0, 0, 0, 0]), "bad_spacing"),
    "NaN spacing": (nifti_bytes(VOXELS, pixdim=[1, 1.5, np.nan, 3, 0, 0, 0, 0]), "bad_spacing"),
    "tiny spacing": (nifti_bytes(VOXELS, spacing_mm=(0.05, 1.0, 1.0)), "bad_spacing"),
    "huge spacing": (nifti_bytes(VOXELS, spacing_mm=(3.0, 25.0, 1.0)), "bad_spacing"),
    "over 3 m": (nifti_bytes(noise((161, 1, 1)), spacing_mm=(19.0, 1.0, 1.0)), "bad_spacing"),
    "singular sform, no qform": (
        nifti_bytes(VOXELS, qform_code=0, **sform_fields(np.zeros((3, 3)))),
        "bad_orientation",
    ),
    "shear": (nifti_bytes(VOXELS, **sform_fields([[1.5, 1, 0], [0, 3**0.5, 0], [0, 0, 3]])), "sheared"),
    "sform of another spacing": (nifti_bytes(VOXELS, **sform_fields(np.diag([1.5, 2.0, 3.1]))), "spacing_mismatch"),
    "NaN in the sform's offset": (
        nifti_bytes(VOXELS, **sform_fields(np.diag([1.5, 2.0, 3.0]), (0.0, np.nan, 0.0))),
        "bad_orientation",
    ),
    "infinity in the qform's offset": (nifti_bytes(VOXELS, qoffset_z=np.inf), "bad_orientation"),
    "infinity in the qform's offset, NIfTI-2": (nifti_bytes(VOXELS, qoffset_z=-np.inf, version=2), "bad_orientation"),
    "a slope that makes integers infinite": (nifti_bytes(VOXELS, scl_slope=3e38), "nonfinite"),
    "an intercept that makes integers infinite": (nifti_bytes(VOXELS, scl_slope=3e35, scl_inter=3e38), "nonfinite"),
    "a slope beyond single precision": (nifti_bytes(VOXELS, scl_slope=1e300, version=2), "nonfinite"),
    "a slope that makes bytes infinite": (nifti_bytes((VOXELS % 99).astype("u1"), scl_slope=1e37), "nonfinite"),
    "a slope too small for any difference": (nifti_bytes(VOXELS, scl_slope=1e-30, scl_inter=-1024), "bad_scaling"),
    "an intercept too large for any difference": (nifti_bytes(VOXELS, scl_inter=1e20), "bad_scaling"),
    "an intercept that leaves a few steps": (nifti_bytes(VOXELS, scl_inter=2e9), "bad_scaling"),
    "an intercept that leaves a few steps of floats": (
        nifti_bytes(VOXELS.astype("f4") / 1e6, scl_inter=-1024),
        "bad_scaling",
    ),
    "a slope that single precision takes for 0": (nifti_bytes(VOXELS, scl_slope=1e-300, version=2), "bad_scaling"),
    "big-endian, zero dimension": (nifti_bytes(VOXELS, endianness=">", dim=[3, 8, 0, 6, 1, 1, 1, 1]), "bad_dimensions"),
    "big-endian, half of the voxels": (nifti_bytes(VOXELS, endianness=">")[:-300], "truncated"),
    "big-endian, NaN spacing": (
        nifti_bytes(VOXELS, endianness=">", pixdim=[1, 1.5, np.nan, 3, 0, 0, 0, 0]),
        "bad_spacing",
    ),
    "negative rank": (nifti_bytes(VOXELS, dim=[-3, 8, 7, 6, 1, 1, 1, 1]), "bad_dimensions"),
    "dimensions whose product overflows 64 bits": (
        nifti_bytes(VOXELS, version=2, dim=[3, 2**31, 2**31, 4, 1, 1, 1, 1], spacing_mm=(0.1, 0.1, 0.1)),
        "too_large",
    ),
    "dimensions whose product overflows to what is there": (
        nifti_bytes(VOXELS, version=2, dim=[3, 2**62 + 8, 4, 1, 1, 1, 1, 1]),
        "too_large",
    ),
    "a rank of 2^40": (nifti_bytes(VOXELS, version=2, dim=[2**40, 8, 7, 6, 1, 1, 1, 1]), "bad_dimensions"),
    "header of a pair of files, NIfTI-2": (nifti_bytes(VOXELS, version=2, magic=b"ni2\0\r\n\x1a\n"), "not_nifti"),
    "voxels before the file": (nifti_bytes(VOXELS, vox_offset=-1), "not_nifti"),
    "voxels before the file, NIfTI-2": (nifti_bytes(VOXELS, version=2, vox_offset=-(2**62)), "not_nifti"),
    "voxels at the end of the world": (nifti_bytes(VOXELS, version=2, vox_offset=2**62), "not_nifti"),
    "voxels at infinity": (nifti_bytes(VOXELS, vox_offset=np.inf), "not_nifti"),
    "voxels inside the header": (nifti_bytes(VOXELS, vox_offset=100), "not_nifti"),
    "voxels right behind the header": (nifti_bytes(VOXELS, vox_offset=348), "not_nifti"),
    "voxels right behind the header, NIfTI-2": (nifti_bytes(VOXELS, version=2, vox_offset=543), "not_nifti"),
    "voxels at NaN": (nifti_bytes(VOXELS, vox_offset=np.nan), "not_nifti"),
    "voxels after the end": (nifti_bytes(VOXELS, vox_offset=5000), "truncated"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_files_that_cannot_be_trusted_are_refused(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CaseError) as caught:
        read_volume(tmp_path / name)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_the_header_of_a_pair_says_what_to_do(tmp_path):
    (tmp_path / "a.hdr").write_bytes(nifti_bytes(VOXELS, magic=b"ni1"))
    with pytest.raises(CaseError, match=r"in a file of their own \(\.img\); convert the pair to one \.nii"):
        read_volume(tmp_path / "a.hdr")


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(CaseError, match=r"missing\.nii") as caught:
        read_volume(tmp_path / "missing.nii")
    assert caught.value.reason == "unreadable"


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def link_to_device(path):
    path.symlink_to("/dev/zero")


def link_to_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


OTHERS = {
    "a named pipe": make_pipe,
    "a socket": make_socket,
    "a device": link_to_device,
    "a folder": Path.mkdir,
    "a named pipe, linked to": link_to_pipe,
}


@pytest.mark.parametrize(("kind", "make"), OTHERS.items(), ids=OTHERS.keys())
def test_nothing_but_a_regular_file_is_opened(tmp_path, kind, make):
    path = tmp_path / "a.nii.gz"
    make(path)
    # In a process of its own: what waits for a writer cannot be told to stop.
    script = (
        "import sys\n"
        "from flare_runtime.errors import CaseError\n"
        "from flare_runtime.imaging.read import read_volume\n"
        "try:\n"
        "    read_volume(sys.argv[1])\n"
        "except CaseError as error:\n"
        "    print(error.reason, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False, timeout=300)
    said = kind.split(",")[0]
    assert (run.stdout, run.stderr) == (f"not_a_file a.nii.gz: is {said}; give an image file\n", "")


def test_a_pipe_with_a_writer_is_not_read_either(tmp_path):
    path = tmp_path / "a.nii"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.write(descriptor, PLAIN)
        with pytest.raises(CaseError) as caught:
            read_volume(path)
    finally:
        os.close(descriptor)
    assert caught.value.reason == "not_a_file"


def test_a_link_to_a_regular_file_is_read(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", VOXELS)
    (tmp_path / "link.nii.gz").symlink_to("a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "link.nii.gz").voxels, VOXELS)


def test_the_largest_size_is_the_callers_choice(tmp_path):
    path = write_nifti(tmp_path / "a.nii", VOXELS)
    assert read_volume(path, max_voxels=VOXELS.size).shape == VOXELS.shape
    with pytest.raises(CaseError, match="--max-voxels") as caught:
        read_volume(path, max_voxels=VOXELS.size - 1)
    assert caught.value.reason == "too_large"


HUGE = {
    "dimensions": {"dim": [3, 2000, 2000, 400, 1, 1, 1, 1]},
    "offset of the voxels": {"vox_offset": 2.0**31},
}


@pytest.mark.parametrize("fields", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_small_file_that_promises_gigabytes_is_refused_without_taking_them(tmp_path, name, fields):
    path = write_nifti(tmp_path / name, VOXELS, spacing_mm=(1.0, 1.0, 1.0), **fields)
    script = (
        "import resource, sys\n"
        "from flare_runtime.imaging.read import read_volume\n"
        "from flare_runtime.errors import CaseError\n"
        "import nibabel.nifti2, isal.igzip_lib\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20),) * 2)\n"
        "try:\n"
        "    read_volume(sys.argv[1])\n"
        "except CaseError as error:\n"
        "    print(error.reason)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("truncated\n", "")


# --- fuzzing

HEADER_REASONS = {
    "not_nifti",
    "bad_dimensions",
    "unsupported_type",
    "too_large",
    "bad_spacing",
    "bad_orientation",
    "sheared",
    "spacing_mismatch",
}


@settings(max_examples=300)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(PACKED) - 1), st.integers(1, 255)),
        min_size=1,
        max_size=3,
        unique_by=lambda c: c[0],
    )
)
def test_a_damaged_gzip_file_is_refused_or_unchanged(tmp_path_factory, changes):
    damaged = bytearray(PACKED)
    for place, bits in changes:
        damaged[place] ^= bits
    assert_refused_or_unchanged(tmp_path_factory.getbasetemp() / "fuzz.nii.gz", bytes(damaged))


@settings(max_examples=150)
@given(
    cut=st.tuples(st.integers(0, len(PACKED)), st.integers(0, 60)),
    inserted=st.tuples(st.integers(0, len(PACKED)), st.binary(max_size=40)),
)
def test_a_gzip_file_with_bytes_lost_or_added_is_refused_or_unchanged(tmp_path_factory, cut, inserted):
    damaged = bytearray(PACKED)
    del damaged[cut[0] : cut[0] + cut[1]]
    damaged[inserted[0] : inserted[0]] = inserted[1]
    assert_refused_or_unchanged(tmp_path_factory.getbasetemp() / "fuzz.nii.gz", bytes(damaged))


def assert_refused_or_unchanged(path, data):
    path.write_bytes(data)
    volume, reason = read_or_reason(path)
    if volume is None:
        # Damage to the header may be met before the checksum is.
        assert reason in {"truncated", "corrupt", *HEADER_REASONS}
        return
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.spacing_mm == SPACING


@settings(max_examples=300)
@given(
    changes=st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=12),
    version=st.sampled_from([1, 2]),
)
def test_no_header_raises_anything_but_a_refusal(tmp_path_factory, changes, version):
    damaged = bytearray(nifti_bytes(VOXELS, version=version))
    for place, value in changes.items():
        damaged[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.nii"
    path.write_bytes(bytes(damaged))
    volume, reason = read_or_reason(path)
    assert reason in {None, "truncated", "nonfinite", "bad_scaling", *HEADER_REASONS}
    if volume is not None:
        assert volume.voxels.nbytes <= len(damaged)
        assert np.isfinite(volume.voxels).all()
