"""Cross-validation of a small regression inside a captured function, and what it is made of.

python examples/capture_training.py [--epochs 20] [--plot losses.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import KFold, train_test_split
from sklearn.preprocessing import StandardScaler

import octavo
import octavo.dynamo as torchdynamo

mpl.use("Agg")
import matplotlib.pyplot as plt

FOLDS = 5


class MLP(torch.nn.Module):
    """10-64-32-1."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(10, 64)
        self.fc2 = torch.nn.Linear(64, 32)
        self.fc3 = torch.nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]


def my_compiler(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """Shows what was captured, and runs it as it is."""
    print(f"my_compiler() called with a graph of {len(example_inputs)} inputs:")
    gm.graph.print_tabular()
    return gm.forward  # type: ignore[no-any-return]


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """1,000 samples of 10 features, scaled; 800 to train with, 200 to test with."""
    np.random.seed(42)
    x = np.random.randn(1000, 10)
    y = x @ np.random.randn(10) + np.sin(2 * x[:, 0]) + 0.1 * np.random.randn(1000)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=42)
    scaler, target = StandardScaler(), StandardScaler()
    made = [
        scaler.fit_transform(x_train),
        target.fit_transform(y_train[:, None]),
        scaler.transform(x_test),
        target.transform(y_test[:, None]),
    ]
    x0, y0, x1, y1 = (torch.from_numpy(part.astype(np.float32)) for part in made)
    return x0, y0, x1, y1


def cross_validate(
    x: torch.Tensor, y: torch.Tensor, epochs: int, optimizer_class: Any = torch.optim.Adam
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], MLP]:
    """Mean losses of each epoch over the folds, and the last fold's model."""
    train_losses, val_losses = np.zeros(epochs), np.zeros(epochs)
    loss_of = torch.nn.MSELoss()
    for fold, (inside, outside) in enumerate(KFold(FOLDS).split(x)):
        torch.manual_seed(fold)
        model = MLP()
        optimizer = optimizer_class(model.parameters(), lr=0.01)
        x_in, y_in, x_out, y_out = x[inside], y[inside], x[outside], y[outside]
        for epoch in range(epochs):
            optimizer.zero_grad()
            loss = loss_of(model(x_in), y_in)
            loss.backward()
            optimizer.step()
            train_losses[epoch] += loss.item() / FOLDS
            with torch.no_grad():
                val_losses[epoch] += loss_of(model(x_out), y_out).item() / FOLDS
    return train_losses, val_losses, model


@octavo.optimize(my_compiler)
def training(x: torch.Tensor, y: torch.Tensor, epochs: int) -> Any:
    """With Adam; the whole of it is captured, piece by piece."""
    return cross_validate(x, y, epochs)


def compare(x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Losses of captured training, with the function itself given, against eager's."""
    for optimizer, bound in ((torch.optim.SGD, 0.0), (torch.optim.Adam, 1e-3)):
        eager = np.concatenate(cross_validate(x, y, epochs, optimizer)[:2])
        captured = np.concatenate(torchdynamo.optimize(cross_validate)(x, y, epochs, optimizer)[:2])
        worst = float(np.max(np.abs(captured / eager - 1)))
        assert worst <= bound, (optimizer.__name__, worst)
        print(f"{optimizer.__name__}: losses are eager's, {worst:.1e} off at most")


def main() -> None:
    """Trains, tests, plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--plot", default="capture_training.png")
    options = parser.parse_args()
    x, y, x_test, y_test = data()
    train_losses, val_losses, model = training(x, y, options.epochs)

    predict = octavo.optimize(my_compiler)(model)
    with torch.no_grad():
        predict(x[:160])
        predicted = predict(x_test)  # of another size
    print(f"test MSE {mean_squared_error(y_test, predicted):.4f}")
    print(f"test R2 {r2_score(y_test, predicted):.4f}")
    compare(x, y, min(options.epochs, 5))

    figure, axes = plt.subplots()
    axes.plot(train_losses, label="training")
    axes.plot(val_losses, label="validation")
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(options.plot)
    print(f"losses are in {options.plot}")


if __name__ == "__main__":
    main()
