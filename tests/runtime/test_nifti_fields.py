"""The fields of NIfTI headers, beside nibabel's."""

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from flare_runtime.imaging.nifti_fields import byte_order, layout_of, read_fields
from tests.runtime.nifti_files import nifti_header

VERSIONS = [(1, Nifti1Header), (2, Nifti2Header)]
ORDERS = ["<", ">"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("version", "theirs"), VERSIONS)
def test_every_field_lies_where_nibabel_has_it(version, theirs, order):
    block = nifti_header((4, 5, 6), version=version, endianness=order).binaryblock
    layout = layout_of(block[:4])
    assert layout == theirs.template_dtype.newbyteorder(order)
    assert read_fields(block).dtype == layout
    assert byte_order(read_fields(block)) == order


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_is_read_to_the_last_bit_and_can_be_changed(version, order):
    given = nifti_header((4, 5, 6), version=version, endianness=order, descrip=b"a", srow_x=[1, 2, 3, -4])
    block = given.binaryblock
    header = read_fields(block + b"voxels")
    assert header.tobytes() == block
    assert header["dim"].tolist() == [3, 6, 5, 4, 1, 1, 1, 1]
    copy = header.copy()
    copy["pixdim"][0], copy["qform_code"] = -1, 7
    assert header.tobytes() == block
    given["pixdim"][0], given["qform_code"] = -1, 7
    assert copy.tobytes() == given.binaryblock


def test_what_is_no_header_or_not_all_of_one_is_none():
    block = nifti_header((4, 5, 6)).binaryblock
    for odd in (b"", block[:3], block[:347], b"\0" + block, np.int32(349).tobytes() + block):
        assert read_fields(odd) is None
    assert layout_of(block[:3]) is layout_of(np.int32(349).tobytes()) is None


def test_the_byte_order_is_that_of_the_size_whatever_else_is_wrong():
    block = nifti_header((4, 5, 6), endianness=">", dim=[9, 6, 5, 4, 1, 1, 1, 1]).binaryblock
    assert int(read_fields(block)["dim"][0]) == 9
