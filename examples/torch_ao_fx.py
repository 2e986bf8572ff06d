"""FX graph mode as torch.ao has it: the model is traced, so it needs no stubs, no FloatFunctional
and no list of what to fuse. Only the import differs; there prepare_fx is in quantize_fx."""

from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import octavo.quantization as tq
from torch_ao_dynamic import sqnr


class Residual(nn.Module):
    """Convolutions with a sum, a concatenation and functional calls between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(32, 16, 1)
        self.classes = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.first(x)))
        y = functional.relu(x + self.second(x))
        y = functional.max_pool2d(self.third(torch.cat([x, y], 1)), 2)
        return self.classes(functional.adaptive_avg_pool2d(y, 1).flatten(1))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    with torch.no_grad():
        for _ in range(4):  # statistics of the batch norm
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def quantized(model: nn.Module, data: list[torch.Tensor], fx: ModuleType = tq, q: Any = tq) -> Any:
    prepared = fx.prepare_fx(model, q.get_default_qconfig_mapping("x86"), (data[0],))
    with torch.inference_mode():
        for x in data:  # calibration
            prepared(x)
    return fx.convert_fx(prepared)


def main() -> None:
    model = make_model()
    data = [torch.randn(8, 3, 32, 32) for _ in range(8)]
    int8 = quantized(model, data)
    print(int8)

    x = torch.randn(32, 3, 32, 32)
    with torch.inference_mode():
        print(f"SQNR: {sqnr(model(x), int8(x)):.2f} dB")

    # The same weights and layers, other ranges: the state brings those of the first.
    again = quantized(make_model(), data[:1])
    again.load_state_dict(int8.state_dict())
    with torch.inference_mode():
        print("loaded:", torch.equal(again(x), int8(x)))


if __name__ == "__main__":
    main()
