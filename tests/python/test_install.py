"""`pip install .` where there is no torch, and beside a torch that the build does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import octavo
from conftest import ROOT, make_model, samples

pytestmark = pytest.mark.long

TORCH_ONLY = ("_torch", "nn", "quantization", "compat.pytorch_quantization")

# Quantizes the model that argv names, saves it, and keeps what the file answers.
USE = """
import sys
import numpy as np
import octavo
assert "torch" not in sys.modules
model, data, out = sys.argv[1:]
x = np.load(data)["x"]
graph = octavo.load_onnx(model)
octavo.save(octavo.quantize(graph, [(one[None],) for one in x]), out)
np.save(out + ".npy", octavo.compile(out)(x)[0])
"""


def run(*command: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Without the PYTHONPATH of the build; `path` in its place."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=env, cwd="/"
    )


def done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment. Isolated builds too look for torch where Python is."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def wheel(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (environment, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps")
    done(run(*pip, "--quiet", "--wheel-dir", folder, ROOT))
    (made,) = folder.glob("octavo-*.whl")
    return made


@pytest.fixture(scope="module")
def python(environment: Path, wheel: Path) -> Path:
    """Of the environment with the wheel and what it asks for."""
    pip = (environment, "-m", "pip", "install", "--disable-pip-version-check")
    done(run(*pip, "--quiet", wheel))
    return environment


def other_torch(folder: Path, version: str) -> Path:
    """A folder whose torch has a version and nothing else."""
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text(f'__version__ = "{version}"\n')
    return folder


def import_error(python: Path | str, module: str, path: Path | None = None) -> str:
    """The last line of what `import octavo.MODULE` says."""
    result = run(python, "-c", f"import octavo; import octavo.{module}", path=path)
    assert result.returncode != 0, module
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: "), result.stderr
    return last.removeprefix("ImportError: ")


def test_the_wheel_holds_the_library_and_no_torch(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("octavo/_core") for name in names)
    assert not [name for name in names if "octavo_torch" in name or "_torch_build" in name]


def test_it_quantizes_and_runs(python: Path, tmp_path: Path):
    assert "torch" not in done(run(python, "-m", "pip", "list"))
    data = tmp_path / "data.npz"
    np.savez(data, x=samples())
    model, out = make_model(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    done(run(python, "-c", USE, model, data, out))
    quantized = octavo.quantize(octavo.load_onnx(model), [(one[None],) for one in samples()])
    # The same sources: the same integers as the build that is tested.
    np.testing.assert_array_equal(
        np.load(f"{out}.npy"), octavo.compile(quantized)(samples())[0], strict=True
    )
    assert "octavo" in done(run(python.parent / "octavo", "doctor", "--json"))


@pytest.mark.parametrize("module", TORCH_ONLY)
def test_without_torch_one_error_says_what_to_install(python: Path, module: str):
    said = import_error(python, module)
    assert "torch" in said and "not installed" in said and "install torch" in said


@pytest.mark.parametrize("module", TORCH_ONLY)
def test_beside_a_torch_that_came_later(python: Path, module: str, tmp_path: Path):
    said = import_error(python, module, other_torch(tmp_path, "2.13.0"))
    assert "built without torch operators" in said and "build it" in said


@pytest.mark.parametrize("module", TORCH_ONLY)
def test_beside_another_torch_than_that_of_the_build(module: str, tmp_path: Path):
    build = Path(octavo._core.__file__).parent
    record = build / "_torch_build.json"
    if not record.exists():
        pytest.skip("this build has no torch operators")
    folder = other_torch(tmp_path, "1.0.0")
    (folder / "octavo").symlink_to(build)
    said = import_error(sys.executable, module, folder)
    assert f"built against torch {json.loads(record.read_text())['torch']}" in said
    assert "torch 1.0.0 is installed" in said and "build octavo again" in said
