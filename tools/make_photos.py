"""Writes build/photos: crops of photographs to calibrate on, and of other photographs to judge by.

scikit-image and scikit-learn carry some pictures inside their wheels, so nothing is downloaded.
Each whole photograph belongs to one side: no scene is calibrated on and judged by. From each side
come seeded random crops (place, scale, mirror image), resized to 224 x 224:

  calibration/*.png, heldout/*.png   the crops
  calibration.npz, heldout.npz       the same, preprocessed: one float32 NCHW array named `input`
  preprocessing.json                 how a picture becomes the network's input
  manifest.json                      which photograph is on which side, and each crop's place in it

The folder is complete once manifest.json is there; it is then kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 224
SEED = 12345
SCALES = (0.4, 1.0)  # the crop's side, as a part of the photograph's shorter side
COUNTS = {"calibration": 128, "heldout": 360}

# Photographs, micrographs and telescope pictures that stand in the two wheels. Both motorcycles are
# one scene. Left out: drawings, masks, scans of text, and what scikit-image would have to download.
PHOTOGRAPHS: dict[str, dict[str, list[str]]] = {
    "calibration": {
        "skimage/data": [
            "astronaut.png",
            "brick.png",
            "coins.png",
            "grass.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "motorcycle_left.png",
            "motorcycle_right.png",
        ],
        "sklearn/datasets/images": ["china.jpg"],
    },
    "heldout": {
        "skimage/data": [
            "camera.png",
            "chelsea.png",
            "clock_motion.png",
            "coffee.png",
            "gravel.png",
            "moon.png",
            "retina.jpg",
            "rocket.jpg",
        ],
        "sklearn/datasets/images": ["flower.jpg"],
    },
}

# EfficientNet-Lite was trained on (x - 127) / 128, x in 0..255.
PREPROCESSING: dict[str, Any] = {
    "schema_version": 1,
    "color": "RGB",
    "resize": {"shorter_side": SIZE, "filter": "bilinear"},
    "crop": {"height": SIZE, "width": SIZE, "position": "center"},
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
    "layout": "NCHW",
    "dtype": "float32",
}


def photographs(side: str) -> list[Path]:
    paths = []
    for folder, names in PHOTOGRAPHS[side].items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the Python package {package} is not installed")
        paths += [Path(spec.origin).parent / inside / name for name in names]
    return sorted(paths, key=lambda path: path.name)


def preprocess(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """N x 224 x 224 x 3 bytes, to what PREPROCESSING says."""
    mean = np.array(PREPROCESSING["mean"], np.float32)
    std = np.array(PREPROCESSING["std"], np.float32)
    scaled = (pictures.astype(np.float32) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def crops(
    side: str, count: int, seed: int = SEED
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """`count` crops, taking the photographs of `side` in turn, and where each was taken."""
    generator = np.random.default_rng([seed, list(COUNTS).index(side)])
    paths = photographs(side)
    pictures = [Image.open(path).convert("RGB") for path in paths]
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    records: list[dict[str, Any]] = []
    for index in range(count):
        path, picture = paths[index % len(paths)], pictures[index % len(paths)]
        edge = round(float(generator.uniform(*SCALES)) * min(picture.size))
        left = int(generator.integers(0, picture.width - edge + 1))
        top = int(generator.integers(0, picture.height - edge + 1))
        mirrored = bool(generator.integers(2))
        box = (left, top, left + edge, top + edge)
        crop = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
        pixels[index] = np.asarray(crop)[:, ::-1] if mirrored else np.asarray(crop)
        file = f"{side}/{index:03d}-{path.stem}.png"
        records.append({"file": file, "photograph": path.name, "box": box, "mirrored": mirrored})
    return pixels, records


def make(folder: Path, counts: dict[str, int] = COUNTS, seed: int = SEED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {"schema_version": 1, "seed": seed, "sides": {}}
    for side, count in counts.items():
        pixels, records = crops(side, count, seed)
        shutil.rmtree(folder / side, ignore_errors=True)
        (folder / side).mkdir()
        for pixel, record in zip(pixels, records, strict=True):
            Image.fromarray(pixel).save(folder / record["file"], compress_level=1)
        np.savez(folder / f"{side}.npz", input=preprocess(pixels))
        sources = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in photographs(side)
        }
        manifest["sides"][side] = {"photographs_sha256": sources, "crops": records}
    (folder / "preprocessing.json").write_text(json.dumps(PREPROCESSING, indent=2) + "\n")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/photos"), help="where to write (%(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="write again even if they are there")
    options = parser.parse_args()
    if options.force or not (options.folder / "manifest.json").exists():
        (options.folder / "manifest.json").unlink(missing_ok=True)
        make(options.folder)
    sides = json.loads((options.folder / "manifest.json").read_text())["sides"]
    for side, content in sides.items():
        names = ", ".join(content["photographs_sha256"])
        print(f"{options.folder / side}: {len(content['crops'])} crops of {names}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
