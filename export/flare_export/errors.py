"""The errors that stop an export, each with its exit code."""

from flare_runtime.errors import FlareError


class ModelError(FlareError):
    """The nnU-Net model folder cannot be exported: it is incomplete, inconsistent, hostile or not supported."""

    exit_code = 3


class DisagreementError(FlareError):
    """The exported network does not compute what the original does; no bundle was written."""

    exit_code = 3
