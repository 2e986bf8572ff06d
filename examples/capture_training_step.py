"""A training step under capture: what becomes graphs, and that the losses stay eager's.

python examples/capture_training_step.py
"""

from __future__ import annotations

from typing import Any

import torch

import octavo.dynamo as torchdynamo


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


def train(capture: bool, optimizer_class: type, shown: list[torch.fx.GraphModule]) -> list[float]:
    """Losses of five steps."""
    torch.manual_seed(0)
    model, loss_of = MLP(), torch.nn.MSELoss()
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    x, y = torch.randn(200, 10), torch.randn(200, 1)

    def my_compiler(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        shown.append(gm)
        return gm.forward

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss  # type: ignore[no-any-return]

    run = torchdynamo.optimize(my_compiler)(step) if capture else step
    return [float(run().detach()) for _ in range(5)]


def main() -> None:
    """Prints the graphs of SGD's steps and compares both optimizers with eager."""
    for optimizer, bound in ((torch.optim.SGD, 0.0), (torch.optim.Adam, 1e-3)):
        graphs: list[torch.fx.GraphModule] = []
        eager = train(False, optimizer, [])
        captured = train(True, optimizer, graphs)
        worst = max(abs(a - b) / abs(a) for a, b in zip(eager, captured, strict=True))
        assert worst <= bound, (eager, captured)
        ops = [sum(n.op.startswith("call") for n in gm.graph.nodes) for gm in graphs]
        print(
            f"{optimizer.__name__}: {len(graphs)} graphs of {ops} ops, worst loss {worst:.1e} off"
        )
        if optimizer is torch.optim.SGD:
            for gm in graphs[:1]:
                for node in gm.graph.nodes:
                    print(f"  {node.op:14} {node.name}")


if __name__ == "__main__":
    main()
