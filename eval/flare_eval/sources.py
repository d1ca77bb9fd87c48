"""Names the public collection that a FLARE case comes from, by the case's name."""

import re

PSEUDO_LABELLED = "DeepLesion"
VALIDATION = "FLARE23 validation"
OTHER = "other"

# Region names that some releases put before a case's name.
_REGION = r"(?:[A-Z][A-Za-z]*_)?"
_PATTERNS = tuple(
    (name, re.compile(rf"^{_REGION}(?:{pattern})"))
    for name, pattern in (
        (PSEUDO_LABELLED, r"\d{6}_\d{2}_\d{2}_\d{3}-\d{3}$"),
        ("LIDC", r"LIDC-IDRI-\d{4}"),
        ("KiTS23", r"KiTS23_case_\d{5}"),
        ("autoPET", r"PETCT_[0-9a-f]{10}-\d|autoPET_fdg_"),
        ("PSMA", r"psma_"),
        ("NSCLC", r"NSCLC-Radiomics_\d{3}|NSCLC-Radiogenomics_R01-\d{3}|NSCLCPleuralEffusion_\d{3}"),
        ("MSD hepatic vessel", r"MSD_hepaticvessel_\d+"),
        ("MSD pancreas", r"MSD_pancreas_\d+"),
        ("MSD colon", r"MSD_colon_\d+"),
        ("MSD liver", r"MSD_liver_\d+"),
        ("MSD lung", r"MSD_lung_\d+"),
        ("NIH lymph nodes", r"NIH-LYMPH-(?:MED|ABD)-\d{3}"),
        ("ACC-Ki67", r"Adrenal_Ki67_Seg_\d{3}"),
        ("COVID", r"coronacases_\d{3}|volume-covid|radiopaedia"),
        (VALIDATION, r"FLARE23Ts_\d{4}"),
        ("STS", r"STS_\d{3}"),
    )
)


def source_of(case: str) -> str:
    """Return the collection of the case with this name (no suffix), or "other"."""
    return next((name for name, pattern in _PATTERNS if pattern.match(case)), OTHER)
