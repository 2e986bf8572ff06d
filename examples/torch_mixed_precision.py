"""The guilty layers of a torch model, and how many to leave in float.

python torch_mixed_precision.py

Needs torch and tqdm.
"""

import torch

import octavo
import octavo.nn


def build() -> torch.nn.Module:
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 8 * 8, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    ).eval()
    with torch.no_grad():  # one channel that is much larger than the others: bad for 8 bits
        model[0].weight[0] *= 100
        model[2].weight[:, 0] /= 100
    return model


def main() -> None:
    model = build()
    torch.manual_seed(2)
    data = [torch.randn(8, 3, 16, 16) for _ in range(8)]
    octavo.nn.replace(model)
    octavo.calibrate(model, data, method="max")
    ranking = octavo.sensitivity(model, data, mode="only")
    print(ranking)
    found = octavo.search(model, data, metric="sqnr", least=30.0)
    print(found)
    found.apply()
    point = found.points[found.chosen]
    print(f"in float: {', '.join(point.float_layers) or 'nothing'}")
    print(f"SQNR {found.points[0].figures.sqnr_db.value:.1f} dB before, ", end="")
    print(f"{point.figures.sqnr_db.value:.1f} dB now")
    ranking.disable_worst(1)  # the same by hand


if __name__ == "__main__":
    main()
