"""PP-OCR's text detector and recogniser, the files that the PyPI package rapidocr carries.

Height and width are dynamic. The recogniser's metadata holds its characters, one a line.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

FILES = {
    "ocr-detector": "PP-OCRv6_det_small.onnx",
    "ocr-recogniser": "PP-OCRv6_rec_small.onnx",
    "ocr-orientation": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}


def build(name: str, path: Path) -> None:
    spec = importlib.util.find_spec("rapidocr")  # its code is not run, and needs packages we do not
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("rapidocr of requirements/peers.txt is not installed")
    source = Path(spec.submodule_search_locations[0]) / "models" / FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    shutil.copyfile(source, partial)
    partial.replace(path)
