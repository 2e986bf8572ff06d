"""Dynamic quantization as torch.ao has it, on Octavo's kernels: only the import differs."""

from types import ModuleType

import torch
from torch import nn

import octavo.quantization as tq


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(768, 512),
        nn.ReLU(),
        nn.Linear(512, 314),
        nn.ReLU(),
        nn.Linear(314, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
    ).eval()


def quantized(model: nn.Module, q: ModuleType = tq) -> nn.Module:
    result: nn.Module = q.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return result


def sqnr(real: torch.Tensor, other: torch.Tensor) -> float:
    """Signal to quantization noise, in dB."""
    noise = (other - real).square().mean()
    return float(10 * torch.log10(real.square().mean() / noise))


def main() -> None:
    model = make_model()
    int8 = quantized(model)
    print(int8)
    weight = int8[0].weight()
    print(weight.int_repr()[0, :8], weight.q_scale(), weight.q_zero_point())

    x = torch.randn(100, 768)
    with torch.inference_mode():
        print(f"SQNR: {sqnr(model(x), int8(x)):.2f} dB")

    torch.save(int8.state_dict(), "dynamic.pt")
    again = quantized(make_model())
    again.load_state_dict(torch.load("dynamic.pt"))
    print("loaded:", torch.equal(again(x), int8(x)))


if __name__ == "__main__":
    main()
