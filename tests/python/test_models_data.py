"""The material of the demonstrations: tokens of sentences, pages of text and their reading."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def tools():
    pytest.importorskip("torch")
    sys.path.insert(0, str(ROOT / "tools"))
    yield
    sys.path.remove(str(ROOT / "tools"))


def test_word_pieces_are_those_of_bert():
    import sentences

    # The ids that BERT's uncased vocabulary is known by, and its paper's example of pieces.
    ids, mask = sentences.encode("Hello, WORLD!", 8)
    assert ids == [101, 7592, 1010, 2088, 999, 102, 0, 0]
    assert mask == [1, 1, 1, 1, 1, 1, 0, 0]
    known = sentences.vocabulary()
    assert sentences.pieces("unaffable") == [known["una"], known["##ffa"], known["##ble"]]
    assert sentences.words("Café-au-lait ©") == ["cafe", "-", "au", "-", "lait", "©"]
    assert sentences.pieces("\u2603") == [known["[UNK]"]]
    long_ids, long_mask = sentences.encode("word " * 100, 16)
    assert long_ids[-1] == 102
    assert long_mask == [1] * 16


def test_no_sentence_is_on_both_sides():
    import sentences

    calibration = sentences.sentences("calibration", 128)
    heldout = sentences.sentences("heldout", 256)
    assert len(set(calibration)) == 128
    assert set(calibration).isdisjoint(heldout)
    assert sentences.sentences("calibration", 128) == calibration
    assert sentences.inputs("heldout", 3)["input_ids"].shape == (3, sentences.LENGTH)


def test_pages_are_the_same_again_and_apart():
    import ocr_pages

    first, second = ocr_pages.pages("heldout", 2), ocr_pages.pages("heldout", 2)
    np.testing.assert_array_equal(first[1].image, second[1].image)
    assert first[1].lines == second[1].lines
    assert set(ocr_pages.TEXTS["calibration"]).isdisjoint(ocr_pages.TEXTS["heldout"])
    assert set(ocr_pages.FACES["calibration"]).isdisjoint(ocr_pages.FACES["heldout"])
    lines = {line for page in ocr_pages.pages("calibration") for line in page.lines}
    assert lines.isdisjoint(line for page in ocr_pages.pages("heldout") for line in page.lines)


def test_regions_of_a_map():
    import ocr_pages

    score = np.zeros((1, 1, 64, 96), np.float32)
    score[0, 0, 40:48, 10:50] = 0.9
    score[0, 0, 10:18, 20:90] = 0.9
    score[0, 0, 30, 70] = 0.9  # a speck
    score[0, 0, 52:60, 60:90] = 0.4  # faint
    # area * 1.6 / circumference: 320 * 1.6 / 96 and 560 * 1.6 / 156
    assert ocr_pages.boxes(score) == [(4, 14, 24, 96), (35, 5, 53, 55)]


def test_ctc_drops_repeats_and_blanks():
    import ocr_pages

    alphabet = ["", "a", "b", " "]
    classes = [0, 1, 1, 0, 1, 2, 2, 3, 0, 2]
    assert ocr_pages.decode(np.eye(4, dtype=np.float32)[None, classes], alphabet) == "aab b"


@pytest.mark.parametrize(
    ("a", "b", "steps"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2)]
)
def test_edit_distance(a, b, steps):
    import ocr_pages

    assert ocr_pages.distance(a, b) == ocr_pages.distance(b, a) == steps


def test_pages_are_read_right():
    import make_models
    import ocr_pages

    def network(name):
        session = onnxruntime.InferenceSession(
            str(make_models.make(name)), providers=["CPUExecutionProvider"]
        )
        return lambda x: session.run(None, {"x": x})[0]

    alphabet = ocr_pages.characters(make_models.make("ocr-recogniser"))
    assert len(alphabet) == 18710
    pages = ocr_pages.pages("heldout", 2)
    detect, recognise = network("ocr-detector"), network("ocr-recogniser")
    lines = [ocr_pages.read(page, detect, recognise, alphabet) for page in pages]
    assert ocr_pages.accuracy(lines, pages) > 0.97
    swapped = [lines[1], lines[0]]
    assert ocr_pages.accuracy(swapped, pages) < 0.5
