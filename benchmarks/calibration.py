"""Calibration of a ResNet-50: Octavo against NVIDIA's histogram calibrators, taking turns.

    tools/run.sh python benchmarks/calibration.py TensorRT/tools/pytorch-quantization

The argument is that folder of a TensorRT checkout (tools/pytorch_quantization_suite.py says how to
get it). Its calib/histogram.py runs as it is; what it imports is octavo.compat's, whose fake
quantization is faster on the CPU than the original's. Both see the same batches of the same model.
The amax of every quantizer are compared before anything is timed. What counts is the time inside of
collect and of the choice: the forward pass around them is left out exactly.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import octavo.compat
import octavo.nn
from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.nn.collectors import Histogram

BAR = 10.0


class Bottleneck(torch.nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        sizes = ((inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1))
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(i, o, k, stride=s, padding=k // 2) for i, o, k, s in sizes
        )
        self.shortcut: torch.nn.Module = torch.nn.Identity()
        if inputs != outputs:
            self.shortcut = torch.nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convs[0](x).relu()
        y = self.convs[2](self.convs[1](y).relu())
        return (0.5 * (y + self.shortcut(x))).relu()


def resnet50() -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = [
        torch.nn.Conv2d(3, 64, 7, stride=2, padding=3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, stride=2, padding=1),
    ]
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2048, 1000)]
    model = torch.nn.Sequential(*layers).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def nvidia_calibrators(folder: Path) -> Any:
    """The checkout's calib/histogram.py as a module."""
    source = folder / "pytorch_quantization" / "calib" / "histogram.py"
    if not source.exists():
        sys.exit(f"{folder} is not tools/pytorch-quantization of a TensorRT checkout")
    octavo.compat.install()
    if importlib.util.find_spec("absl") is None:  # it only logs
        absl: Any = types.ModuleType("absl")
        absl.logging = types.SimpleNamespace(
            INFO=logging.INFO,
            debug=lambda *_args: None,
            log_first_n=lambda *_args: None,
            warning=logging.warning,
            error=logging.error,
        )
        sys.modules["absl"] = absl
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[method-assign]
    name = "pytorch_quantization.calib.nvidia_histogram"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def activations(model: torch.nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, quant_nn.TensorQuantizer) and name.endswith("_input_quantizer")
    }


def nvidia(model: torch.nn.Module, data: list[torch.Tensor], module: Any, method: str) -> Any:
    quantizers = activations(model)
    for quantizer in quantizers.values():
        quantizer._calibrator = module.HistogramCalibrator(8, None, False)
        quantizer.disable_quant()
        quantizer.enable_calib()
    with torch.no_grad():
        for x in data:
            model(x)
    for quantizer in quantizers.values():
        quantizer.disable_calib()
        quantizer.enable_quant()
    return {name: q._calibrator.compute_amax(method) for name, q in quantizers.items()}


class Stopwatch:
    """Sums the time inside of some methods of a class."""

    def __init__(self, cls: Any, *names: str) -> None:
        self.seconds = 0.0
        for name in names:
            setattr(cls, name, self._timed(getattr(cls, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return call

    def of(self, run: Callable[[], object]) -> float:
        self.seconds = 0.0
        run()
        return self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="none: Octavo alone, one round")
    parser.add_argument("--method", choices=["percentile", "mse", "entropy"], action="append")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help=f"fail below {BAR:g} times")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    module = nvidia_calibrators(options.folder) if options.folder else None
    model = resnet50()
    octavo.nn.replace(model)
    for name, m in model.named_modules():
        if name.endswith("_weight_quantizer"):
            m.disable()  # not what NVIDIA's histogram calibrators do
    torch.manual_seed(1)
    data = [torch.randn(options.batch, 3, 224, 224) for _ in range(options.batches)]

    watch_ours = Stopwatch(Histogram, "collect", "amax")
    missed = False
    if module is None:
        for method in options.method or ("percentile", "mse", "entropy"):
            ours_s = watch_ours.of(
                lambda m=method: octavo.calibrate(model, data, method=m, progress=False)
            )
            print(f"{method}: Octavo {ours_s:.3f} s")
        return
    watch_theirs = Stopwatch(module.HistogramCalibrator, "collect", "compute_amax")
    for method in options.method or ("percentile", "mse", "entropy"):
        theirs = nvidia(model, data, module, method)
        ours = octavo.calibrate(model, data, method=method, progress=False).ranges
        bins = sorted(abs(float(ours[n]) - float(a)) / float(a) * 2048 for n, a in theirs.items())
        assert ours.keys() == theirs.keys()
        # NVIDIA's histograms are float32: beyond 2^24 a bin's count is rounded, and two candidates
        # of nearly the same error can change places.
        print(f"{method}: {len(ours)} quantizers, amax differ by {bins[-1]:.2g} bins of 2048")
        assert bins[len(bins) // 2] < 0.01 and bins[-1] < 64, "the answers differ"
        rounds = 1 if method == "entropy" else options.rounds  # NVIDIA's takes minutes
        ratios = []
        for _ in range(rounds):
            ours_s = watch_ours.of(
                lambda m=method: octavo.calibrate(model, data, method=m, progress=False)
            )
            theirs_s = watch_theirs.of(lambda m=method: nvidia(model, data, module, m))
            ratios.append(theirs_s / ours_s)
        ratio = sorted(ratios)[len(ratios) // 2]
        print(f"{method}: Octavo {ours_s:.3f} s, NVIDIA {theirs_s:.3f} s, {ratio:.1f} times")
        missed = missed or ratio < BAR
    if options.check and missed:
        sys.exit(f"less than {BAR:g} times as fast")


if __name__ == "__main__":
    main()
