"""Each check of tools/ fails on a bad example, and passes on a good one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


def tool(name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOLS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GRAPH = {"src/support/error.h": "", "src/graph/graph.h": '#include "support/error.h"\n'}


def test_includes_pass_downwards(tmp_path):
    assert tool("check_includes.py", write(tmp_path, GRAPH)).returncode == 0


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("src/support/a.h", '#include "graph/graph.h"', "support must not include graph/graph.h"),
        ("src/support/a.h", "#include <Python.h>", "Python.h has no place in liboctavo"),
        ("src/graph/a.cpp", "#include <torch/torch.h>", "torch/torch.h has no place"),
        ("src/runtime/a.cpp", '#include "passes/p.h"', "runtime must not include passes/p.h"),
        ("src/unheard_of/a.cpp", "", "its folder has no line"),
    ],
)
def test_includes_fail_upwards(tmp_path, file, line, message):
    root = write(tmp_path, GRAPH | {"src/passes/p.h": "", file: f"// first\n{line}\n"})
    done = tool("check_includes.py", root)
    assert done.returncode == 1
    assert message in done.stdout
    if line:
        assert f"{file}:2:" in done.stdout


def test_include_table_has_no_cycle_and_a_clean_runtime(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import check_includes

    assert check_includes.table_errors() == []
    monkeypatch.setitem(check_includes.ALLOWED, "support", "graph")
    assert any("cycle" in e for e in check_includes.table_errors())
    monkeypatch.setitem(check_includes.ALLOWED, "support", "")
    monkeypatch.setitem(check_includes.ALLOWED, "runtime", "support passes")
    assert "runtime reaches passes" in check_includes.table_errors()


def test_src_readme_names_every_folder(tmp_path):
    good = {"src/a/b/c.h": "", "src/README.md": "| `a/` | x |\n| `a/b/` | y |\n"}
    assert tool("check_src_readme.py", write(tmp_path, good)).returncode == 0
    (tmp_path / "src/README.md").write_text("| `a/` | x |\n| `gone/` | y |\n| `a/` | z |\n")
    done = tool("check_src_readme.py", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "src/README.md names a/ twice",
        "src/README.md does not name a/b/",
        "src/README.md names gone/, which is not there",
    ]


@pytest.mark.skipif(not shutil.which("clang-tidy-14"), reason="clang-tidy-14 is not installed")
def test_clang_tidy_fails_and_remembers_only_what_passed(tmp_path):
    root = write(
        tmp_path,
        {
            ".clang-tidy": (ROOT / ".clang-tidy").read_text(),
            "src/a.h": "inline int twice(int x) { return 2 * x; }\n",
            "src/a.cpp": '#include "a.h"\nint use(int x) { return twice(x); }\n',
        },
    )
    source = root / "src/a.cpp"
    command = f"env A=b ccache /usr/bin/c++ -I{root}/src -fpch-preprocess -o a.o -c {source}"
    entry = {"directory": str(root), "file": str(source), "command": command}
    write(root, {"build/compile_commands.json": json.dumps([entry])})

    def run():
        return tool("run_clang_tidy.py", "--build", root / "build", cwd=root)

    assert "1 files, 1 checked, 0 failed" in run().stdout
    assert "1 files, 0 checked, 0 failed" in run().stdout
    # A change in a header counts, and a failure is reported again the next time.
    (root / "src/a.h").write_text(
        "struct Big { int v[99]; };\ninline int sum(Big b) { return b.v[0]; }\n"
        "inline int twice(int x) { return sizeof(x) == 4 ? sizeof(sizeof(x)) : x; }\n"
    )
    for _ in range(2):
        done = run()
        assert done.returncode == 1
        assert "bugprone-sizeof-expression" in done.stdout


def test_lint_checks_format_types_and_style(tmp_path):
    """The three outside tools, as lint.sh calls them, on one bad file each."""
    bad_cpp = tmp_path / "bad.cpp"
    bad_cpp.write_text("int  f( ){return 1 ;}\n")
    shutil.copy(ROOT / ".clang-format", tmp_path)
    command = ["clang-format-14", "--dry-run", "-Werror", str(bad_cpp)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0

    bad_py = tmp_path / "bad.py"
    bad_py.write_text("import os\ndef f(x): return x\n")
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(bad_py)]
    for command in (["ruff", "check", *config], ["ruff", "format", "--check", *config]):
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(bad_py)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "missing a type annotation" in done.stdout


def test_debian_packages_names_a_package_of_the_wrong_version(tmp_path):
    if not shutil.which("dpkg-query"):
        pytest.skip("not Debian")
    packages = tmp_path / "packages.txt"

    def run():
        return subprocess.run(
            [str(TOOLS / "debian_packages.sh"), str(packages)],
            capture_output=True,
            text=True,
            check=False,
        )

    packages.write_text("# a comment\ndpkg 1.\n")
    assert run().returncode == 0
    packages.write_text("dpkg 99.\n")
    done = run()
    assert done.returncode == 1
    assert "dpkg is at 1." in done.stderr
    assert "built with 99." in done.stderr


def test_ci_closing_line(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from ci_summary import closing_line

    log = (
        "100% tests passed, 0 tests failed out of 10\n"
        "lint: 7 checks passed\n"
        "5 passed, 2 skipped in 1.02s\n"
    )
    assert " 22 passed, 2 skipped in 3.00s " in closing_line(log, 0, 3)
    assert " 1 failed, 22 passed, 2 skipped in 3.00s " in closing_line(log, 2, 3)
    bad = log + "80% tests passed, 2 tests failed out of 10\n1 failed, 1 error in 2.00s\n"
    assert " 4 failed, 30 passed, 2 skipped " in closing_line(bad, 2, 3)


def test_table_of_ops_is_current(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import op_table
    from octavo import _core

    table, cases = json.loads(_core.ops_json()), op_table.passing_cases()
    opsets = op_table.written_opsets()
    text = op_table.table_text(table, cases, opsets)
    assert op_table.TABLE.read_text() == text, "run tools/op_table.py"
    # What the library's tables say, and what the cases showed.
    assert {op["name"] for op in table["ops"]} == set(_core.op_names())
    row = next(line for line in text.splitlines() if line.startswith("| `conv` "))
    assert row.startswith("| `conv` | compute | weighted | fast | f32 | Conv → 13–22 | product")
    assert opsets["bit_not"] == {18}  # BitwiseNot is of opset 18
    assert next(x for x in text.splitlines() if x.startswith("| `sin` ")).count("reference") == 1
    # A table that changed shows.
    for op in table["ops"]:
        if op["name"] == "conv":
            op["targets"]["octavo"] = "float"
    assert op_table.table_text(table, cases, opsets) != text


def test_check_of_the_table_of_ops(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(TOOLS))
    import op_table

    monkeypatch.setattr(op_table, "passing_cases", dict)
    monkeypatch.setattr(op_table, "written_opsets", dict)
    monkeypatch.setattr(op_table, "ROOT", tmp_path)
    monkeypatch.setattr(op_table, "TABLE", tmp_path / "ops.md")
    monkeypatch.setattr(sys, "argv", ["op_table.py", "--check"])
    assert op_table.main() == 1
    assert "ops.md is out of date" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["op_table.py"])
    assert op_table.main() == 0
    monkeypatch.setattr(sys, "argv", ["op_table.py", "--check"])
    assert op_table.main() == 0
