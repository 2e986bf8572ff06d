"""Pages of text that is known, and the reading of them by PP-OCR's detector and recogniser.

Texts are lines of the licences in /usr/share/common-licenses, set in Debian's DejaVu fonts: some
licences calibrate, others judge, in other fonts. Reading is what PP-OCR prescribes: regions of the
detector's map above a threshold, grown; each cut out, scaled to 48 rows and recognised; the
recogniser's best class per column, repeats and blanks dropped (CTC).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Array = NDArray[np.float32]
LICENCES = Path("/usr/share/common-licenses")
FONTS = Path("/usr/share/fonts/truetype/dejavu")
TEXTS = {"calibration": ("Artistic", "MPL-2.0", "GFDL-1.3"), "heldout": ("Apache-2.0", "GPL-2")}
FACES = {
    "calibration": ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono"),
    "heldout": ("DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Bold"),
}
PAGES = {"calibration": 12, "heldout": 12}
WIDTH, HEIGHT, LINES = 640, 320, 6
ROWS = 48  # of the recogniser's input
THRESHOLD, BOX_THRESHOLD, UNCLIP = 0.3, 0.5, 1.6


@dataclass(frozen=True)
class Page:
    image: NDArray[np.uint8]  # height x width, grey
    lines: list[str]


@cache
def _phrases(side: str) -> list[str]:
    text = " ".join((LICENCES / name).read_text(encoding="utf-8") for name in TEXTS[side])
    words = re.sub(r"\s+", " ", text).split()
    words = [w for w in words if w.isascii() and len(w) < 15]
    phrases, line = [], ""
    for word in words:
        if len(line) + len(word) > 28:
            phrases.append(line.strip())
            line = ""
        line += f" {word}"
    return phrases


def pages(side: str, count: int | None = None) -> list[Page]:
    """The same at every call."""
    random = np.random.default_rng(list(TEXTS).index(side))
    phrases = _phrases(side)
    result = []
    for _ in range(count or PAGES[side]):
        paper, ink = int(random.integers(200, 256)), int(random.integers(0, 70))
        image = Image.new("L", (WIDTH, HEIGHT), paper)
        draw = ImageDraw.Draw(image)
        lines = []
        for row in range(LINES):
            face = FACES[side][int(random.integers(len(FACES[side])))]
            font = ImageFont.truetype(str(FONTS / f"{face}.ttf"), int(random.integers(14, 25)))
            line = phrases[int(random.integers(len(phrases)))]
            left = int(random.integers(12, 50))
            while font.getlength(line) > WIDTH - left - 12:
                line = line.rpartition(" ")[0]
            draw.text((left, 12 + row * 51), line, fill=ink, font=font)
            lines.append(line)
        noise = random.normal(0, 14, (HEIGHT, WIDTH))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        result.append(Page(pixels, lines))
    return result


def _network_input(image: NDArray[np.uint8]) -> Array:
    scaled = image.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.repeat(scaled[None, None], 3, 1)


def detector_input(page: Page) -> Array:
    """1 x 3 x height x width, both multiples of 32."""
    return _network_input(page.image)


def boxes(probability: Array) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom, right of each region of the detector's map, from top to bottom."""
    score = probability[0, 0]
    labels, _ = ndimage.label(score > THRESHOLD, np.ones((3, 3)))
    found = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3 or score[rows, columns].mean() < BOX_THRESHOLD:
            continue
        grow = round(height * width * UNCLIP / (2 * (height + width)))
        found.append(
            (
                max(rows.start - grow, 0),
                max(columns.start - grow, 0),
                min(rows.stop + grow, score.shape[0]),
                min(columns.stop + grow, score.shape[1]),
            )
        )
    return sorted(found)


def recogniser_input(image: NDArray[np.uint8]) -> Array:
    """A cut-out line, 48 rows high, as wide as it is: the width is dynamic."""
    width = max(round(image.shape[1] * ROWS / image.shape[0]), 16)
    line = Image.fromarray(image).resize((width, ROWS), Image.Resampling.BILINEAR)
    return _network_input(np.asarray(line))


def cut(page: Page, box: tuple[int, int, int, int]) -> Array:
    top, left, bottom, right = box
    return recogniser_input(page.image[top:bottom, left:right])


@cache
def characters(recogniser: Path) -> list[str]:
    """By class: the blank, those of the file's metadata, the space."""
    properties = {p.key: p.value for p in onnx.load(recogniser).metadata_props}
    return ["", *properties["character"].split("\n"), " "]


def decode(probabilities: Array, alphabet: list[str]) -> str:
    best = probabilities[0].argmax(1)
    kept = best[np.concatenate(([True], best[1:] != best[:-1]))]
    return "".join(alphabet[i] for i in kept)


Network = Callable[[Array], Array]


def read(page: Page, detect: Network, recognise: Network, alphabet: list[str]) -> list[str]:
    return [
        decode(recognise(cut(page, box)), alphabet) for box in boxes(detect(detector_input(page)))
    ]


def distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements from one to the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        previous, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            previous, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, previous + (x != y))
    return row[-1]


def accuracy(read_lines: list[list[str]], truth: list[Page]) -> float:
    """Characters right: 1 - edit distance / length, over all pages, lines joined by a space."""
    wrong = total = 0
    for lines, page in zip(read_lines, truth, strict=True):
        wanted = " ".join(page.lines)
        wrong += distance(" ".join(lines), wanted)
        total += len(wanted)
    return 1 - wrong / total
