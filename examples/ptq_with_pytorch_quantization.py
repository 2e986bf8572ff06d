"""A script for NVIDIA's pytorch-quantization, run on Octavo: calibrate, export, run in INT8.

python ptq_with_pytorch_quantization.py

The only lines that are Octavo's are the two at the top and the last part. Needs torch.
"""

import tempfile
import warnings
from pathlib import Path

import octavo.compat

octavo.compat.install()

import torch  # noqa: E402
from pytorch_quantization import enable_onnx_export, quant_modules  # noqa: E402
from pytorch_quantization import nn as quant_nn  # noqa: E402
from pytorch_quantization.tensor_quant import QuantDescriptor  # noqa: E402


def build() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 8 * 8, 10),
    ).eval()


def calibrate(model: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    quantizers = [m for m in model.modules() if isinstance(m, quant_nn.TensorQuantizer)]
    for quantizer in quantizers:
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for quantizer in quantizers:
        histogram = quantizer.axis is None
        quantizer.load_calib_amax(*(["mse"] if histogram else []))
        quantizer.disable_calib()
        quantizer.enable_quant()


def decibels(reference: torch.Tensor, other: torch.Tensor) -> float:
    noise = (reference - other).square().sum()
    return float(10 * torch.log10(reference.square().sum() / noise))


def main() -> None:
    of_input = QuantDescriptor(num_bits=8, calib_method="histogram")
    for module in (quant_nn.QuantConv2d, quant_nn.QuantLinear):
        module.set_default_quant_desc_input(of_input)
    original = build()
    quant_modules.initialize()
    model = build()
    quant_modules.deactivate()
    model.load_state_dict(original.state_dict())
    print(model)

    torch.manual_seed(2)
    calibrate(model, [torch.randn(8, 3, 16, 16) for _ in range(8)])
    x = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        floats, fake = original(x), model(x)
    print(f"fake-quantized against float: {decibels(floats, fake):.1f} dB")

    path = Path(tempfile.mkdtemp()) / "int8.onnx"
    with enable_onnx_export(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), input_names=["x"], verbose=False)
    graph = octavo.load_onnx(path)
    report = octavo.lint(graph, "octavo")
    (integers,) = octavo.compile(graph)(x.numpy())
    print(f"{path}: {len(report.integer)} nodes on integers")
    print(f"compiled INT8 against float: {decibels(floats, torch.from_numpy(integers)):.1f} dB")
    same = (torch.from_numpy(integers).argmax(1) == fake.argmax(1)).float().mean()
    print(f"same top class as fake-quantized: {same:.0%}")


if __name__ == "__main__":
    main()
