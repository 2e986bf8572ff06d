"""Handwritten digits in 3 bits: calibrated, then distilled with learned ranges.

python torch_distillation.py [lsq|pact]

Needs torch, tqdm and scikit-learn.
"""

import copy
import sys

import torch
from sklearn.datasets import load_digits

import octavo
import octavo.nn
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor


class Net(torch.nn.Module):
    """Two convolutions and a residual one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.pool = torch.nn.MaxPool2d(2)
        self.head = torch.nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.conv(x))
        return self.head(self.pool(x).flatten(1))


def train(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(10):
        for part in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()


def report(name: str, model: torch.nn.Module, reference: torch.nn.Module, data: tuple) -> None:
    x, y = data
    with torch.no_grad():
        floats, outputs = reference(x), model(x)
    accuracy = (outputs.argmax(1) == y).float().mean()
    noise = (outputs - floats).square().sum()
    sqnr = 10 * torch.log10(floats.square().sum() / noise.clamp_min(1e-30))
    print(f"{name:12} accuracy {accuracy:.3f}, SQNR {min(sqnr, 99):.1f} dB")


def main(method: str) -> None:
    torch.manual_seed(1)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    held_out, x, y = (x[1200:], y[1200:]), x[:1200], y[:1200]
    model = Net()
    train(model, x, y)
    model.eval()
    reference = copy.deepcopy(model)
    report("float", model, reference, held_out)

    three = QuantDescriptor(num_bits=3)
    rows = QuantDescriptor(num_bits=3, axis=0)
    every = {"quant_desc_input": three, "quant_desc_weight": rows}
    octavo.nn.replace(model, {torch.nn.Conv2d: every, torch.nn.Linear: every})
    octavo.nn.insert_shared(model, (x[:2],), quant_desc_input=three)
    batches = list(x.split(100))
    octavo.calibrate(model, batches, method="max")
    report("max", model, reference, held_out)

    ranges = octavo.nn.learn_ranges(model, method)
    result = octavo.nn.distill(model, batches, epochs=5, learning_rate=2e-3)
    ranges.finish()
    report("distilled", model, reference, held_out)
    print(f"loss {result.losses[0]:.4f} at first, {result.losses[-1]:.4f} at last")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "lsq")
