"""Quantizers and quantized modules."""

from octavo.compat.pytorch_quantization.nn import functional as functional
from octavo.compat.pytorch_quantization.nn import modules as modules
from octavo.compat.pytorch_quantization.nn.modules.clip import *
from octavo.compat.pytorch_quantization.nn.modules.quant_conv import *
from octavo.compat.pytorch_quantization.nn.modules.quant_instancenorm import *
from octavo.compat.pytorch_quantization.nn.modules.quant_linear import *
from octavo.compat.pytorch_quantization.nn.modules.quant_pooling import *
from octavo.compat.pytorch_quantization.nn.modules.quant_rnn import *
from octavo.compat.pytorch_quantization.nn.modules.tensor_quantizer import *
