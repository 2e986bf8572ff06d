"""Damaged files: whatever the bytes, the process lives and only UserError is raised.

Mutations are seeded. A batch of them runs in a process of its own; a crash or hang is reported with
the file, seed and number of the mutation, which `mutate(content, seed, number)` makes again.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import octavo
from conftest import samples

SEED = 20261125
SECONDS = 20  # of one mutation: more is a hang
MEMORY = 8 << 30  # address space of the process
HEADER = struct.Struct("<8sIIQQQQ2Q")  # src/graph/octavo_header.h


def fnv1a(content: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def signed_again(content: bytes) -> bytes:
    """An .octavo file with its checksum made right, so that what lies behind it is reached."""
    if len(content) < HEADER.size:
        return content
    fields = list(HEADER.unpack_from(content))
    fields[6] = 0
    metadata = content[HEADER.size : HEADER.size + min(fields[3], len(content))]
    fields[6] = fnv1a(HEADER.pack(*fields) + metadata)
    return HEADER.pack(*fields) + content[HEADER.size :]


def mutate(content: bytes, seed: int, number: int) -> bytes:
    """Flipped bits, bytes set, a part cut off, removed, doubled or moved; one or a few of these."""
    rng = random.Random(f"{seed}/{number}")
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(data)) if data else 0
        size = rng.randint(1, 16)
        match rng.choice(["flip", "flip", "set", "truncate", "remove", "double", "move"]):
            case "flip" if data:
                data[at] ^= 1 << rng.randrange(8)
            case "set" if data:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case "truncate" if rng.random() < 0.3:
                del data[at:]
            case "remove":
                del data[at : at + size]
            case "double":
                data[at:at] = data[at : at + size]
            case "move":
                other = rng.randrange(len(data)) if data else 0
                data[at : at + size] = data[other : other + size]
    signed = content[:6] == b"OCTAVO" and rng.random() < 0.9
    return signed_again(bytes(data)) if signed else bytes(data)


def attempt(path: Path) -> str:
    """Loads, compiles, runs; says how far it came."""
    try:
        program = octavo.compile(octavo.load(path), threads=1)
        inputs = []
        for _, text in program.inputs:  # "f32[N, 3, 8, 8]"
            name, dims = text.rstrip("]").split("[")
            shape = [int(d) if d.isdigit() else 1 for d in dims.split(", ") if d]
            kinds = {"f": "float", "i": "int", "u": "uint", "b": "bool"}
            if name == "bf16" or np.prod(shape, dtype=float) > 1e6:
                return "compiled"
            bits = "" if name == "bool" else name[1:]
            inputs.append(np.ones(shape, f"{kinds[name[0]]}{bits}"))
        program(*inputs)
    except octavo.UserError:
        return "refused"
    return "ran"


def batch(original: Path, seed: int, first: int, count: int) -> None:
    """The child process: writes each mutation's number, then how it went."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    content, path = original.read_bytes(), original.with_name(f"mutated{original.suffix}")
    for number in range(first, first + count):
        os.write(1, f"{number} ".encode())
        path.write_bytes(mutate(content, seed, number))
        signal.alarm(SECONDS)
        try:
            outcome = attempt(path)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}".replace("\n", " ")
        signal.alarm(0)
        os.write(1, f"{outcome}\n".encode())


@pytest.fixture(scope="module")
def originals(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    graph = octavo.load(model)
    int8 = octavo.quantize(graph, list(samples(4)[:, None]), calibrator="max")
    for name, source in (("float", graph), ("int8", int8)):
        octavo.save(source, folder / f"{name}.onnx")
        octavo.save(source, folder / f"{name}.octavo")
    return folder


@pytest.mark.parametrize("name", ["float.onnx", "int8.onnx", "float.octavo", "int8.octavo"])
def test_damaged_files_are_refused_or_run(originals, name):
    count = int(os.environ.get("OCTAVO_FUZZ_COUNT", "250"))
    script = Path(__file__).resolve()
    assert attempt(originals / name) == "ran"
    again = signed_again((originals / name).read_bytes())
    assert not name.endswith(".octavo") or again == (originals / name).read_bytes()
    outcomes: list[str] = []
    problems: list[str] = []
    while len(outcomes) < count:
        numbers = (SEED, len(outcomes), count - len(outcomes))
        done = subprocess.run(
            [sys.executable, script, originals / name, *map(str, numbers)],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in done.stdout.splitlines():
            number, _, outcome = line.partition(" ")
            outcomes.append(outcome or f"the process died: {done.returncode} {done.stderr[-500:]}")
            if outcome not in ("refused", "compiled", "ran"):
                problems.append(f"{name}, seed {SEED}, mutation {number}: {outcomes[-1]}")
        assert done.stdout, done.stderr
    assert not problems, "\n".join(problems)
    # The mutations are neither all hopeless nor all harmless.
    assert 0.2 < outcomes.count("refused") / count < 0.98, outcomes.count("refused")


if __name__ == "__main__":
    batch(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
