"""Quantization-aware training as torch.ao has it: Adam over 30,000 samples, weights per channel
symmetric, activations per tensor affine. Only the import differs."""

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import nn

import octavo.quantization as tq
from torch_ao_dynamic import make_model, sqnr

SAMPLES, BATCH = 30_000, 100


DIRECTIONS = torch.randn(768, 64, generator=torch.Generator().manual_seed(7)) / 768**0.5


def target(x: torch.Tensor) -> torch.Tensor:
    """What the network shall learn: lengths along 64 directions."""
    return (x @ DIRECTIONS).abs()


def samples(count: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count // BATCH):
        x = torch.randn(BATCH, 768, generator=generator)
        yield x, target(x)


def train(model: nn.Module, seed: int) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = torch.tensor(0.0)
    for x, y in samples(SAMPLES, seed):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def qconfig(q: ModuleType = tq) -> object:
    return q.QConfig(
        activation=q.FakeQuantize.with_args(
            observer=q.MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=255,
            dtype=torch.quint8,
            qscheme=torch.per_tensor_affine,
        ),
        weight=q.FakeQuantize.with_args(
            observer=q.MovingAveragePerChannelMinMaxObserver,
            quant_min=-128,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        ),
    )


def prepared(model: nn.Module, q: ModuleType = tq, config: object = None) -> nn.Module:
    wrapped = q.QuantWrapper(model).train()
    wrapped.qconfig = config or qconfig(q)
    fused = q.fuse_modules_qat(wrapped, [[f"module.{i}", f"module.{i + 1}"] for i in (0, 2, 4)])
    result: nn.Module = q.prepare_qat(fused)
    return result


def main() -> None:
    model = make_model().train()
    print(f"float: loss {train(model, 1):.4f}")
    qat = prepared(model)
    print(f"quantized, in training: loss {train(qat, 2):.4f}")
    qat.eval().apply(tq.disable_observer)
    int8 = tq.convert(qat)
    print(int8)
    with torch.inference_mode():
        for x, y in samples(BATCH, 3):
            print(f"SQNR to the training's model: {sqnr(qat(x), int8(x)):.2f} dB")
            print(f"loss of the integers: {nn.functional.mse_loss(int8(x), y).item():.4f}")


if __name__ == "__main__":
    main()
