"""Sentences of Debian's copyright files as tokens of all-MiniLM-L6-v2.

Every package's /usr/share/doc/PACKAGE/copyright is on one of two sides by its text, "calibration"
or "heldout", so that no file and no copy of one is on both; sentences that occur on both are left
out. WordPiece as BERT's uncased vocabulary has it: lower case, accents off, punctuation alone, the
longest known piece first.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTH = 64
COUNTS = {"calibration": 128, "heldout": 256}
SOURCES = Path("/usr/share/doc")


@cache
def vocabulary() -> dict[str, int]:
    from networks.transformer import minilm_folder

    words = (minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return {word: place for place, word in enumerate(words) if word}


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def _alone(char: str) -> bool:
    """Punctuation, which for BERT is also every ASCII sign, and CJK ideographs."""
    code = ord(char)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(char)[0] == "P" or 0x4E00 <= code <= 0x9FFF


def words(text: str) -> list[str]:
    spaced = "".join(f" {c} " if _alone(c) else c for c in _plain(text))
    return spaced.split()


def pieces(word: str) -> list[int]:
    """The ids of one word, or [UNK] if it cannot be put together."""
    known = vocabulary()
    ids: list[int] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in known:
                ids.append(known[piece])
                start = end
                break
        else:
            return [known["[UNK]"]]
    return ids


def encode(text: str, length: int = LENGTH) -> tuple[list[int], list[int]]:
    """Token ids and mask, cut or padded to `length`."""
    known = vocabulary()
    body = [i for word in words(text) for i in pieces(word)][: length - 2]
    ids = [known["[CLS]"], *body, known["[SEP]"]]
    padding = length - len(ids)
    return ids + [known["[PAD]"]] * padding, [1] * len(ids) + [0] * padding


@cache
def _by_side() -> dict[str, list[str]]:
    found: dict[str, set[str]] = {side: set() for side in COUNTS}
    for path in sorted(SOURCES.glob("*/copyright")):
        text = path.read_text(encoding="utf-8", errors="replace")
        side = list(COUNTS)[hashlib.sha256(text.encode()).digest()[0] % 2]
        flowing = re.sub(r"\s+", " ", re.sub(r"(?m)^[\s#.*]+", " ", text))
        for sentence in re.split(r"(?<=[.;:]) ", flowing):
            if 40 <= len(sentence) <= 300 and sum(c.isalpha() for c in sentence) > 30:
                found[side].add(sentence)
    both = set.intersection(*found.values())  # licences that many packages quote
    return {side: sorted(texts - both) for side, texts in found.items()}


def sentences(side: str, count: int) -> list[str]:
    """Different sentences, spread over the side's files; the same at every call."""
    everything = _by_side()[side]
    if len(everything) < count:
        raise RuntimeError(f"{SOURCES} holds {len(everything)} sentences, {count} are needed")
    order = np.random.default_rng(list(COUNTS).index(side)).permutation(len(everything))
    return [everything[i] for i in order[:count]]


def inputs(side: str, count: int | None = None) -> dict[str, NDArray[np.int64]]:
    encoded = [encode(s) for s in sentences(side, count or COUNTS[side])]
    return {
        "input_ids": np.array([ids for ids, _ in encoded], np.int64),
        "attention_mask": np.array([mask for _, mask in encoded], np.int64),
    }


def without_padding(inputs: dict[str, NDArray[np.int64]]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Batches of one sentence each, at its own length: padding would count in statistics."""
    for i, length in enumerate(inputs["attention_mask"].sum(1)):
        yield {name: x[i : i + 1, :length] for name, x in inputs.items()}
