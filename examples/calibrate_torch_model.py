"""A built torch model: quantizers put in, calibrated with each method, an interruption survived.

python calibrate_torch_model.py

Needs torch and tqdm.
"""

import tempfile
from pathlib import Path

import torch

import octavo
import octavo.nn
from octavo.nn.collectors import METHODS


def build() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 8 * 8, 10),
    ).eval()


def main() -> None:
    reference, model = build(), build()
    octavo.nn.replace(model)
    torch.manual_seed(2)
    data = [torch.randn(8, 3, 16, 16) for _ in range(16)]
    x = torch.randn(32, 3, 16, 16)
    with torch.no_grad():
        floats = reference(x)
    for method in METHODS:
        result = octavo.calibrate(model, data, method=method)
        with torch.no_grad():
            noise = (model(x) - floats).square().sum()
        sqnr = 10 * torch.log10(floats.square().sum() / noise)
        print(f"{method:15} {result.steps} batches, SQNR {sqnr:.1f} dB")

    checkpoint = Path(tempfile.mkdtemp()) / "calibration.json"

    def stop_after_five(_phase: str, done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    want = octavo.calibrate(model, data).ranges
    try:
        octavo.calibrate(model, data, checkpoint=checkpoint, progress=stop_after_five)
    except KeyboardInterrupt:
        print("interrupted")
    got = octavo.calibrate(model, data, checkpoint=checkpoint).ranges
    print(f"the same ranges: {all(torch.equal(got[name], want[name]) for name in want)}")
    early = octavo.calibrate(model, data * 10, tolerance=0.05, patience=8)
    print(f"settled after {early.steps} of {10 * len(data)} batches")


if __name__ == "__main__":
    main()
