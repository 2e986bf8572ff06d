"""torch's calls by what a quantizer at them is for: for plans and for rewritten forwards."""

from __future__ import annotations

__all__ = [
    "CLAMPS",
    "FUNCTIONS",
    "KEEP_SIGNS",
    "KINDS",
    "OPS",
    "OPTIONAL",
    "POSITIVE",
    "PRODUCTS",
    "TWO_SIDED",
    "VIEWS",
]

# Functions of one element.
FUNCTIONS = {
    "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "sigmoid", "silu",
    "tanh",
}  # fmt: skip
_IN_PLACE = ("add", "mul", "relu", "relu6", "hardtanh", "clamp", *FUNCTIONS)
KINDS = {
    "add": "add", "iadd": "add", "mul": "mul", "imul": "mul", "multiply": "mul",
    "cat": "cat", "concat": "cat", "concatenate": "cat",
    "max_pool1d": "max_pool", "max_pool2d": "max_pool", "max_pool3d": "max_pool",
    "upsample_nearest1d": "resize", "upsample_nearest2d": "resize", "upsample_nearest3d": "resize",
    "relu": "relu", "relu6": "relu6", "hardtanh": "hardtanh", "clamp": "clamp",
    "mean": "mean", "adaptive_avg_pool2d": "adaptive_avg_pool2d", "avg_pool2d": "avg_pool2d",
    "softmax": "softmax",
    **{name: name for name in FUNCTIONS},
}  # fmt: skip
KINDS |= {f"{name}_": KINDS[name] for name in _IN_PLACE}
TWO_SIDED = {"add", "mul"}
# Left in float where the forward that calls them cannot be followed.
OPTIONAL = {"mul", "mean", "adaptive_avg_pool2d", "avg_pool2d", "softmax"} | FUNCTIONS
# Joined to what computes their input, where the target does that.
CLAMPS = {"relu", "relu6", "hardtanh", "clamp"}
# The op of ops.def by whose facts a call is judged.
OPS = {
    "conv1d": "conv", "conv2d": "conv", "conv3d": "conv", "conv_transpose1d": "conv_transpose",
    "conv_transpose2d": "conv_transpose", "conv_transpose3d": "conv_transpose", "linear": "gemm",
    "add": "add", "iadd": "add", "add_": "add", "cat": "concat", "concat": "concat",
    "concatenate": "concat", "max_pool2d": "max_pool", "upsample_nearest2d": "resize",
    "avg_pool2d": "avg_pool", "adaptive_avg_pool2d": "reduce_mean", "mean": "reduce_mean",
    "mul": "mul", "mul_": "mul", "softmax": "softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid",
    "leaky_relu": "leaky_relu", "leaky_relu_": "leaky_relu",
}  # fmt: skip
PRODUCTS = {name for name, op in OPS.items() if op in ("conv", "conv_transpose", "gemm")}
# The values are the input's.
VIEWS = {"view", "reshape", "flatten", "permute", "transpose", "dropout", "unsqueeze", "squeeze",
         "contiguous", "clone"}  # fmt: skip
# Never below 0; or if their inputs are not.
POSITIVE = {"relu", "relu_", "relu6", "relu6_", "sigmoid", "sigmoid_", "softmax", "hardsigmoid",
            "hardsigmoid_", "softplus"}  # fmt: skip
KEEP_SIGNS = VIEWS | {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean",
                      "upsample_nearest2d"}  # fmt: skip
