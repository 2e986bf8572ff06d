"""NVIDIA's pytorch-quantization interface, on Octavo's arithmetic and calibrators.

Names, defaults, exceptions and state dicts are the original's; where it goes wrong, this does not:
docs/migrating_from_pytorch_quantization.md has the list.
"""

import octavo._torch  # noqa: F401  says what is missing, before torch is imported
from octavo.compat.pytorch_quantization import calib, nn, optim, tensor_quant, utils
from octavo.compat.pytorch_quantization import version as _version
from octavo.compat.pytorch_quantization.quant_modules import (
    deactivate,
    enable_onnx_export,
    initialize,
)

__all__ = [
    "__version__",
    "calib",
    "deactivate",
    "enable_onnx_export",
    "initialize",
    "nn",
    "optim",
    "tensor_quant",
    "utils",
]

__version__ = _version.__version__


def _set_version(version: str) -> None:
    """What differs between the releases; see :func:`octavo.compat.install`."""
    global __version__
    _version.choose(version)
    __version__ = _version.__version__
    for dims in (1, 2, 3):
        name = f"QUANT_DESC_8BIT_CONVTRANSPOSE{dims}D_WEIGHT_PER_CHANNEL"
        descriptor = tensor_quant.QuantDescriptor(num_bits=8, axis=_version.conv_transpose_axis())
        setattr(tensor_quant, name, descriptor)
        getattr(nn, f"QuantConvTranspose{dims}d").default_quant_desc_weight = descriptor
