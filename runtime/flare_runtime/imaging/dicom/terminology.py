"""SNOMED codes for what labels are called, as DICOM asks for them."""

import re
from typing import Any, NamedTuple

_SIDES = {"left", "right", "l", "r"}
_NEOPLASMS = {
    *("tumor", "tumors", "tumour", "tumours", "cancer", "neoplasm", "neoplasms", "malignancy", "carcinoma", "sarcoma"),
    *("metastasis", "metastases", "gtv"),
}
# Of names that DICOM has other words for.
_SYNONYMS = {
    "UrinaryBladder": "Bladder",
    "GallBladder": "Gallbladder",
    "ThyroidGland": "Thyroid",
    "SmallBowel": "SmallIntestine",
    "Oesophagus": "Esophagus",
    "Postcava": "InferiorVenaCava",
    "Vertebrae": "Vertebra",
}


class Property(NamedTuple):
    """What a segment is: a category, and what of it; codes as pydicom has them."""

    category: Any
    type: Any


def property_of(name: str) -> Property:
    """Return the codes for a label's name: a tumour's, those of DICOM's own list (CID 7151), or any tissue's.

    Sides are left to the name.
    """
    from pydicom.sr.codedict import codes

    words = [word for word in re.findall(r"[a-z]+", name.lower()) if word not in _SIDES]
    if _NEOPLASMS.intersection(words):
        return Property(codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm)
    keyword = "".join(word.capitalize() for word in words)
    for one in (keyword, _SYNONYMS.get(keyword, ""), keyword.removesuffix("s")):
        if hasattr(codes.cid7159, one):  # abnormal structures
            return Property(codes.SCT.MorphologicallyAbnormalStructure, getattr(codes.cid7159, one))
        if hasattr(codes.cid7151, one):
            return Property(codes.SCT.AnatomicalStructure, getattr(codes.cid7151, one))
    return Property(codes.SCT.Tissue, codes.SCT.Tissue)
