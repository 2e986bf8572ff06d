"""Static quantization as torch.ao has it: weights per channel symmetric, activations per tensor
affine. Only the import differs."""

from types import ModuleType

import torch
from torch import nn

import octavo.quantization as tq
from torch_ao_dynamic import make_model, sqnr


def qconfig(q: ModuleType = tq) -> object:
    return q.QConfig(
        activation=q.MinMaxObserver.with_args(dtype=torch.quint8, qscheme=torch.per_tensor_affine),
        weight=q.PerChannelMinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric
        ),
    )


def quantized(
    model: nn.Module, data: list[torch.Tensor], q: ModuleType = tq, config: object = None
) -> nn.Module:
    wrapped = q.QuantWrapper(model).eval()  # QuantStub, the model, DeQuantStub
    wrapped.qconfig = config or qconfig(q)
    fused = q.fuse_modules(wrapped, [[f"module.{i}", f"module.{i + 1}"] for i in (0, 2, 4)])
    prepared = q.prepare(fused)
    with torch.inference_mode():
        for x in data:  # calibration
            prepared(x)
    result: nn.Module = q.convert(prepared)
    return result


def main() -> None:
    model = make_model()
    data = [torch.randn(100, 768) for _ in range(10)]
    int8 = quantized(model, data)
    print(int8)

    x = torch.randn(100, 768)
    with torch.inference_mode():
        q = int8.quant(x)
        print(q.int_repr()[0, :8], q.q_scale(), q.q_zero_point())
        print(f"SQNR: {sqnr(model(x), int8(x)):.2f} dB")

    torch.save(int8.state_dict(), "static.pt")
    again = quantized(make_model(), data[:1])
    again.load_state_dict(torch.load("static.pt"))
    print("loaded:", torch.equal(again(x), int8(x)))


if __name__ == "__main__":
    main()
