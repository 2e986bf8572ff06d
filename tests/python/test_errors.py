"""One mistake each: one clear error, its exit code, nothing half written."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import octavo
from conftest import samples, says_what_to_do


class Desk:
    """A folder with a good model and good data, on which a mistake is made."""

    def __init__(self, cli, folder: Path, model: Path):
        self.cli, self.folder = cli, folder
        self.model, self.data, self.out = folder / "m.onnx", folder / "d.npz", folder / "out"
        shutil.copy(model, self.model)
        np.savez(self.data, x=samples())
        self.out.mkdir()
        self.more: list[object] = []

    def quantize(self):
        return ["quantize", self.model, "-o", self.out / "q.onnx", "--data", self.data, *self.more]

    def fails(self, code: int, *patterns: str, command: list[object] | None = None) -> None:
        done = self.cli(*(command or self.quantize()))
        assert done.returncode == code, done.stderr + done.stdout
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("octavo: error: ")
        for pattern in patterns:
            assert re.search(pattern, lines[0]), (pattern, lines[0])
        assert sorted(self.out.iterdir()) == []
        assert [p for p in self.folder.iterdir() if p.suffix == ".tmp"] == []


@pytest.fixture
def desk(cli, tmp_path, model) -> Desk:
    return Desk(cli, tmp_path, model)


VALUE, FILE, UNSUPPORTED = 3, 4, 5


def test_the_desk_without_a_mistake_works(desk):
    done = desk.cli(*desk.quantize())
    assert done.returncode == 0, done.stderr
    assert [p.name for p in desk.out.iterdir()] == ["q.onnx"]


# Models ------------------------------------------------------------------------------------------


def test_no_model(desk):
    desk.model = desk.folder / "gone.onnx"
    desk.fails(FILE, r"gone\.onnx: cannot open: No such file")


def test_model_is_a_folder(desk):
    desk.model = desk.out
    desk.fails(FILE, "out: cannot open: Is a directory")


def test_empty_model(desk):
    desk.model.write_bytes(b"")
    desk.fails(FILE, r"m\.onnx: ")


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_truncated_onnx(desk, part):
    whole = desk.model.read_bytes()
    desk.model.write_bytes(whole[: int(len(whole) * part)])
    desk.fails(FILE, r"m\.onnx: ")


def test_text_instead_of_onnx(desk):
    desk.model.write_text("# not a model\n" * 20)
    desk.fails(FILE, r"m\.onnx: ")


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_octavo(desk, part):
    path = desk.folder / "m.octavo"
    assert desk.cli("compile", desk.model, "-o", path).returncode == 0
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    desk.fails(FILE, r"m\.octavo: ", command=["run", path])


def test_corrupted_octavo(desk):
    path = desk.folder / "m.octavo"
    assert desk.cli("compile", desk.model, "-o", path).returncode == 0
    content = bytearray(path.read_bytes())
    content[80] ^= 255
    path.write_bytes(content)
    desk.fails(FILE, r"m\.octavo: ", command=["inspect", path])


def one_node(path: Path, op: str, domain: str = "", dtype: int = TensorProto.FLOAT) -> None:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], "the/node", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", dtype, [1, 4])],
        [helper.make_tensor_value_info("y", dtype, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 3)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def test_unsupported_op_is_named_with_domain_version_and_node(desk):
    one_node(desk.model, "Mystery", "com.example")
    command = ["inspect", desk.model]
    desk.fails(UNSUPPORTED, "Mystery", r"com\.example", r"\b3\b", "the/node", command=command)


def test_unsupported_element_type(desk):
    one_node(desk.model, "Identity", dtype=TensorProto.STRING)
    desk.fails(UNSUPPORTED, "string|STRING", command=["inspect", desk.model])


def test_already_quantized(desk):
    done = desk.cli(*desk.quantize())
    assert done.returncode == 0, done.stderr
    desk.model = (desk.out / "q.onnx").rename(desk.folder / "int8.onnx")
    desk.fails(VALUE, "quantized already")


def test_nothing_to_quantize(desk):
    one_node(desk.model, "Relu")
    np.savez(desk.data, x=np.zeros((4, 4), np.float32))
    desk.fails(VALUE, "no layer that can be integer")


# Data --------------------------------------------------------------------------------------------


def test_no_data(desk):
    desk.data = desk.folder / "gone"
    desk.fails(FILE, "gone: does not exist")


def test_empty_folder(desk):
    desk.data = desk.folder / "empty"
    desk.data.mkdir()
    desk.fails(FILE, r"empty: holds no \.npz")


def test_no_sample(desk):
    np.savez(desk.data, x=samples(0))
    desk.fails(FILE, r"d\.npz: holds no sample")


def test_missing_name(desk):
    np.savez(desk.data, a=samples(), b=samples())
    desk.fails(FILE, r"d\.npz: has no array 'x' \(it has: a, b\) \(name the arrays")


def test_extra_name(desk):
    np.savez(desk.data, x=samples(), labels=np.arange(16))
    desk.fails(FILE, r"d\.npz: has an array 'labels' that is no input")


def test_wrong_rank(desk):
    np.savez(desk.data, x=samples()[:, 0])
    desk.fails(
        FILE, r"d\.npz\[0\]: input 'x' expects f32\[N, 3, 8, 8\], the data are f32\[1, 8, 8\]"
    )


def test_wrong_shape(desk):
    np.savez(desk.data, x=samples()[:, :2])
    desk.fails(FILE, r"expects f32\[N, 3, 8, 8\], the data are f32\[1, 2, 8, 8\]")


def test_wrong_dtype(desk):
    np.savez(desk.data, x=samples().astype(np.float64))
    desk.fails(FILE, r"the data are f64.*\(convert the data to f32\)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(desk, value):
    x = samples()
    x[9, 1, 2, 3] = value
    np.savez(desk.data, x=x)
    desk.fails(FILE, r"d\.npz\[9\]: input 'x' holds (NaN|infinity) \(clean the data")


def test_scalar_data(desk):
    np.savez(desk.data, x=np.float32(1))
    desk.fails(FILE, r"d\.npz: ")


def npy(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", size) + header + body


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%b), }\n"
BAD_NPY = {
    "empty": (b"", "is not a .npy"),
    "another file": (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "is not a .npy"),
    "header longer than the file": (npy(HEADER % b"4,", length=2**32 - 1), "cut off"),
    "more elements than bytes": (npy(HEADER % b"1000000,", b"\0" * 16), "cut off"),
    "product overflows": (npy(HEADER % b"4294967296, 4294967296,", b"\0" * 16), ""),
    "size overflows": (npy(HEADER % b"4611686018427387904,", b"\0" * 16), ""),
    "dim over int64": (npy(HEADER % b"99999999999999999999,", b"\0" * 16), "damaged"),
    "negative dim": (npy(HEADER % b"-1,", b"\0" * 16), "damaged"),
    "no shape": (npy(b"{'descr': '<f4', 'fortran_order': False, }\n"), "no 'shape'"),
    "unclosed": (npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,"), "damaged"),
    "objects": (
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        "'|O'",
    ),
    "version": (b"\x93NUMPY\x09\x00" + b"\0" * 20, "format 9"),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_bad_npy(desk, name):
    content, message = BAD_NPY[name]
    desk.data = desk.folder / "d.npy"
    desk.data.write_bytes(content)
    desk.fails(FILE, r"d\.npy: .*" + re.escape(message))


def test_object_array_is_not_unpickled(desk):
    desk.data = desk.folder / "d.npy"
    np.save(desk.data, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    desk.fails(FILE, r"element type '\|O' is not supported")


def test_big_endian_npy(desk):
    desk.data = desk.folder / "d.npy"
    np.save(desk.data, samples().astype(">f4"))
    desk.fails(FILE, r"big-endian.*\(save x\.astype")


def test_fortran_npy(desk):
    desk.data = desk.folder / "d.npy"
    np.save(desk.data, np.asfortranarray(samples()))
    desk.fails(FILE, r"Fortran.*\(save numpy\.ascontiguousarray")


def test_truncated_npz(desk):
    desk.data.write_bytes(desk.data.read_bytes()[:-40])
    desk.fails(FILE, r"d\.npz: is not a readable")


def test_npz_with_a_damaged_member(desk):
    content = bytearray(desk.data.read_bytes())
    content[len(content) // 2] ^= 255
    desk.data.write_bytes(content)
    desk.fails(FILE, r"d\.npz:x\.npy: cannot be unpacked")


def bomb(path: Path, claimed: int) -> None:
    """An .npz whose directory claims a member of ``claimed`` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(HEADER % b"1,", b"\0" * 4))
    content = bytearray(buffer.getvalue())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", claimed)
    content[22:26] = struct.pack("<I", claimed)
    path.write_bytes(content)


def test_npz_that_claims_more_than_deflate_can_give(desk):
    bomb(desk.data, 2**32 - 2)
    desk.fails(FILE, r"d\.npz:x\.npy: is damaged: \d+ bytes cannot unpack to 4294967294")


def test_npz_bomb_larger_than_the_memory(desk):
    """Members are shared in the directory, so that a small file claims any size."""
    zeros = npy(HEADER % b"250000000,", b"\0" * 10**9)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x0000.npy", zeros)
    content = buffer.getvalue()
    start = content.rindex(b"PK\x01\x02")
    entry = content[start : content.rindex(b"PK\x05\x06")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    count = memory // 2 // 10**9 + 2
    entries = b"".join(entry.replace(b"x0000", b"x%04d" % i) for i in range(count))
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(entries), start, 0)
    desk.data.write_bytes(content[:start] + entries + end)
    assert desk.data.stat().st_size < 2 * 10**6
    desk.fails(FILE, r"d\.npz:.*(over half of the memory|cannot be unpacked|damaged)")


def test_batches_do_not_divide(desk):
    from conftest import make_model

    make_model(desk.model, batch=3)
    desk.fails(FILE, r"16 rows do not divide into batches of 3")


def pictures(desk: Desk, **how: object) -> Path:
    desk.data = desk.folder / "pictures"
    desk.data.mkdir()
    (desk.data / "preprocessing.json").write_text(json.dumps({"schema_version": 1} | how))
    picture = np.random.default_rng(3).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(desk.data / "a.png")
    return desk.data


def test_pictures_without_preprocessing(desk):
    (pictures(desk) / "preprocessing.json").unlink()
    desk.fails(FILE, r"pictures: pictures need a preprocessing file \(give --preprocessing")


def test_bad_preprocessing_file(desk):
    pictures(desk, std=[1, 0, 1])
    desk.fails(FILE, r"preprocessing\.json: std must be positive \(see schemas/")


def test_preprocessing_file_is_not_json(desk):
    (pictures(desk) / "preprocessing.json").write_text("mean: 3")
    desk.fails(FILE, r"preprocessing\.json: not JSON")


def test_bad_rules_file(desk):
    (desk.folder / "rules.json").write_text('{"schema_version": 1, "rules": [{"precision": "x"}]}')
    desk.more = ["--rules", desk.folder / "rules.json"]
    desk.fails(FILE, r"rules\.json: rules\[0\]\.precision = 'x' is not known \(see schemas/")


def test_crop_larger_than_the_picture(desk):
    pictures(desk, crop={"height": 9, "width": 9})
    desk.fails(FILE, r"a\.png: the crop of 9x9 is larger")


def test_pictures_of_another_size(desk):
    Image.new("RGB", (16, 16)).save(pictures(desk) / "a.png")
    desk.fails(
        FILE, r"a\.png: input 'x' expects f32\[N, 3, 8, 8\], the data are f32\[1, 3, 16, 16\]"
    )


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_truncated_picture(desk, name, kind):
    folder = pictures(desk)
    (folder / "a.png").unlink()
    noise = np.random.default_rng(4).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    desk.fails(FILE, rf"{re.escape(name)}: is a damaged {kind}")


def test_picture_that_claims_a_huge_size(desk):
    content = bytearray((pictures(desk) / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    import zlib

    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (desk.data / "a.png").write_bytes(content)
    desk.fails(FILE, r"a\.png: has more than 2\^28 pixels")


def test_picture_that_is_none(desk):
    (pictures(desk) / "a.png").write_text("no picture")
    desk.fails(FILE, r"a\.png: is neither PNG nor JPEG")


def test_arrays_and_pictures_in_one_folder(desk):
    np.save(pictures(desk) / "a.npy", samples(1))
    desk.fails(FILE, "both arrays and pictures")


# Outputs -----------------------------------------------------------------------------------------


def output(desk: Desk, path: object) -> list[object]:
    return ["quantize", desk.model, "-o", path, "--data", desk.data]


def test_output_folder_is_missing(desk):
    path = desk.folder / "none/q.onnx"
    desk.fails(FILE, r"none/q\.onnx: cannot write.*create it first", command=output(desk, path))


def test_output_is_a_folder(desk):
    (desk.folder / "q.onnx").mkdir()
    command = output(desk, desk.folder / "q.onnx")
    desk.fails(FILE, r"q\.onnx: cannot write: Is a directory", command=command)


def test_output_ending_is_not_known(desk):
    desk.fails(VALUE, r"q\.txt: .*\(use \.onnx", command=output(desk, desk.out / "q.txt"))


@pytest.mark.parametrize("ending", ["onnx", "octavo"])
def test_full_device(desk, ending):
    link = desk.folder / f"full.{ending}"
    link.symlink_to("/dev/full")
    desk.fails(FILE, "No space left", command=output(desk, link))
    assert Path("/dev/full").is_char_device()


def test_full_device_for_the_outputs(desk):
    link = desk.folder / "full.npz"
    link.symlink_to("/dev/full")
    desk.fails(FILE, "No space left", command=["run", desk.model, "--output", link])


def test_record_to_a_full_device(desk):
    path = desk.folder / "q.onnx"
    desk.fails(
        FILE, "/dev/full: .*No space", command=[*output(desk, path), "--record", "/dev/full"]
    )


def test_record_folder_is_missing_is_said_before_the_work(desk):
    desk.more = ["--record", desk.folder / "none/r.json"]
    desk.fails(FILE, r"none/r\.json: cannot write")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_is_read_only(desk):
    desk.out.chmod(0o500)
    desk.fails(FILE, "Permission denied")


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--calibrator", "magic", VALUE),
        ("--compare", "max,magic", VALUE),
        ("--target", "abacus", VALUE),
        ("--weights", "guess", VALUE),
        ("--threads", "-1", 2),
        ("--threads", "many", 2),
        ("--samples", "-4", 2),
        ("--isa", "mmx", VALUE),
        ("--nonsense", "1", 2),
    ],
)
def test_bad_option(desk, option, value, code):
    desk.more = [option, value]
    desk.fails(code, value.split(",")[-1] if code == VALUE else "command line", r"\(")


def test_bench_seconds(desk):
    desk.fails(2, "seconds", command=["bench", desk.model, "--seconds", "-1"])


# At run time -------------------------------------------------------------------------------------


def run(desk: Desk, *inputs: object) -> list[object]:
    arguments = [a for x in inputs for a in ("--input", x)]
    return ["run", desk.model, *arguments, "--output", desk.out / "y.npz"]


def test_run_with_a_wrong_dtype(desk):
    np.save(desk.folder / "x.npy", samples(1).astype(np.int32))
    desk.fails(VALUE, r"input 'x' expects f32", command=run(desk, desk.folder / "x.npy"))


def test_run_with_a_wrong_shape(desk):
    np.save(desk.folder / "x.npy", samples(1)[..., :5])
    desk.fails(VALUE, r"input 'x' expects f32", command=run(desk, desk.folder / "x.npy"))


def test_run_with_an_unknown_name(desk):
    np.save(desk.folder / "x.npy", samples(1))
    command = run(desk, desk.folder / "x.npy", f"z={desk.folder / 'x.npy'}")
    desk.fails(VALUE, "has an array 'z'", command=command)


def test_run_with_an_input_twice(desk):
    np.save(desk.folder / "x.npy", samples(1))
    path = desk.folder / "x.npy"
    desk.fails(VALUE, "'x' is given twice", command=run(desk, path, path))


def test_run_output_ending(desk):
    command = ["run", desk.model, "--output", desk.out / "y.csv"]
    desk.fails(VALUE, r"y\.csv: .*use \.npz", command=command)


# Python ------------------------------------------------------------------------------------------


@pytest.fixture
def graph(model) -> octavo.Graph:
    return octavo.load_onnx(model)


ONE = samples(1)
CALLS = {
    "no input": ((), octavo.UserError, "takes 1 inputs, 0 were given"),
    "two inputs": ((ONE, ONE), octavo.UserError, "takes 1 inputs, 2 were given"),
    "dtype": ((ONE.astype(np.float64),), octavo.UserError, "f64"),
    "shape": ((ONE[:, :2],), octavo.UserError, r"x"),
    "rank": ((ONE[0],), octavo.UserError, r"x"),
    "objects": ((np.array([None]),), octavo.UserError, "dtype object"),
    "text": ((np.array(["a"]),), octavo.UserError, "dtype <U1"),
    "complex": ((ONE.astype(np.complex64),), octavo.UserError, "complex|element type"),
    "a list": (([1.0],), TypeError, "input 'x': expected an array"),
    "None": ((None,), TypeError, "input 'x': expected an array"),
    "missing name": (({"a": ONE},), octavo.UserError, "has no array 'x'"),
    "extra name": (({"x": ONE, "z": ONE},), octavo.UserError, "'z' that is no input"),
    "name that is none": (({1: ONE},), TypeError, "keys"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_call(graph, name):
    arguments, error, message = CALLS[name]
    program = octavo.compile(graph)
    with pytest.raises(error, match=message) as raised:
        program(*arguments)
    says_what_to_do(raised.value)
    assert program(ONE)[0].shape == (1, 5)  # and it still works


DATA = {
    "a number": (3, TypeError, "data: expected a path or an iterable"),
    "one array": (ONE, TypeError, "data: expected a path or an iterable"),
    "one dictionary": ({"x": ONE}, TypeError, "data: expected a path or an iterable"),
    "nothing": ([], octavo.UserError, "data: there is no sample"),
    "used generator": (iter(()), octavo.UserError, "only once"),
    "dtype": ([ONE.astype(np.int8)], octavo.UserError, "data: sample 0: input 'x' expects f32"),
    "rank": ([ONE, ONE[0]], octavo.UserError, "data: sample 1: input 'x' expects"),
    "NaN": ([ONE, ONE * np.nan], octavo.UserError, "data: sample 1: input 'x' holds NaN"),
    "tuple of two": ([(ONE, ONE)], octavo.UserError, "data: sample 0: has 2 arrays"),
    "missing name": ([{"y": ONE}], octavo.UserError, "data: sample 0: has no array 'x'"),
    "extra name": ([{"x": ONE, "y": ONE}], octavo.UserError, "data: sample 0: has an array 'y'"),
    "strings": ([("a",)], TypeError, "data: sample 0: expected an array"),
    "path": ("gone.npz", octavo.FileError, r"gone\.npz: does not exist"),
}


@pytest.mark.parametrize("name", DATA)
def test_bad_data(graph, name):
    data, error, message = DATA[name]
    with pytest.raises(error, match=message) as raised:
        octavo.quantize(graph, data)
    says_what_to_do(raised.value)


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"calibrator": "magic"}, octavo.UserError),
        ({"target": "abacus"}, octavo.UserError),
        ({"weights": "guess"}, octavo.UserError),
        ({"compare": ["magic"]}, octavo.UserError),
        ({"calibrater": "max"}, TypeError),
        ({"samples": -1}, TypeError),
        ({"rules": "gone.json"}, octavo.FileError),
        ({"record": "none/there.json"}, octavo.FileError),
    ],
)
def test_bad_keyword(graph, keywords, error):
    with pytest.raises(error) as raised:
        octavo.quantize(graph, [ONE], **keywords)
    says_what_to_do(raised.value)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda g: octavo.compile(3), TypeError),
        (lambda g: octavo.compile(g, backend="inductor"), TypeError),
        (lambda g: octavo.compile(g, threads=-1), octavo.UserError),
        (lambda g: octavo.compile("gone.onnx"), octavo.FileError),
        (lambda g: octavo.quantize("m.onnx", [ONE]), TypeError),
        (lambda g: octavo.save(g, "a.txt"), octavo.UserError),
        (lambda g: octavo.save(g, "none/there.onnx"), octavo.FileError),
        (lambda g: octavo.export_onnx(g, "none/there.onnx"), octavo.FileError),
        (lambda g: octavo.bench(octavo.compile(g), seconds=0), octavo.UserError),
        (lambda g: octavo.inspect(3), TypeError),
    ],
)
def test_bad_arguments(graph, call, error):
    with pytest.raises(error) as raised:
        call(graph)
    says_what_to_do(raised.value)


def test_exceptions_are_those_of_python():
    assert issubclass(octavo.UserError, ValueError)
    assert issubclass(octavo.FileError, OSError)
    assert issubclass(octavo.UnsupportedError, NotImplementedError)
    assert issubclass(octavo.InternalError, RuntimeError)
