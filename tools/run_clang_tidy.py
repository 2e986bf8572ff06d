#!/usr/bin/env python3
"""Runs clang-tidy over the sources of a build, in parallel, and remembers what passed.

A file is checked again only if it, a header of ours that it includes, its compile command,
.clang-tidy or clang-tidy itself changed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
# g++ takes these; clang does not.
GCC_ONLY = {"-fpch-preprocess", "-fno-fat-lto-objects", "-flto=auto"}


def clang_arguments(command: str, precompiled: str) -> list[str]:
    """The compiler's arguments; the header that g++ precompiled is included as text."""
    words = shlex.split(command)
    compiler = next(i for i, w in enumerate(words) if re.search(r"(^|/)(c|g|clang)\+\+[^/]*$", w))
    kept: list[str] = []
    rest = iter(words[compiler + 1 :])
    for word in rest:
        if word == "-include":
            header = next(rest)
            kept += [word, header if not header.endswith("cmake_pch.hxx") else precompiled]
        elif word in ("-o", "-c"):
            next(rest)
        elif word not in GCC_ONLY and not word.startswith("-W"):  # warnings are g++'s business
            kept.append(word)
    return kept


def project_headers(source: Path, roots: list[Path], seen: dict[Path, bytes]) -> None:
    """Adds source and every quoted include that is found under roots, transitively."""
    if source in seen:
        return
    seen[source] = source.read_bytes()
    for name in INCLUDE.findall(seen[source]):
        for folder in [source.parent, *roots]:
            header = (folder / name.decode()).resolve()
            if header.is_file():
                project_headers(header, roots, seen)
                break


def key_of(source: Path, arguments: list[str], roots: list[Path], salt: bytes) -> str:
    files: dict[Path, bytes] = {}
    project_headers(source, roots, files)
    digest = hashlib.sha256(salt + "\0".join(arguments).encode())
    for path in sorted(files):
        digest.update(str(path).encode() + b"\0" + files[path] + b"\0")
    return digest.hexdigest()


def check(tidy: str, source: Path, arguments: list[str]) -> tuple[bool, str]:
    done = subprocess.run(
        [tidy, "--quiet", str(source), "--", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode == 0, done.stdout + ("" if done.returncode == 0 else done.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build/release"))
    parser.add_argument("--root", type=Path, default=Path.cwd())
    parser.add_argument("--tidy", default="clang-tidy-14")
    parser.add_argument("--cache", type=Path, default=Path(".cache/clang-tidy"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "folders", nargs="*", default=["src", "python/src", "python/torch_ops", "python/capture"]
    )
    options = parser.parse_args()

    root = options.root.resolve()
    wanted = [root / folder for folder in options.folders]
    roots = [root / "src", root / "include"]
    version = subprocess.run([options.tidy, "--version"], capture_output=True, check=True).stdout
    config = root / ".clang-tidy"
    salt = version + (config.read_bytes() if config.exists() else b"")
    options.cache.mkdir(parents=True, exist_ok=True)

    todo: list[tuple[Path, list[str], Path]] = []
    count = 0
    for entry in json.loads((options.build / "compile_commands.json").read_text()):
        source = Path(entry["directory"], entry["file"]).resolve()
        if not any(source.is_relative_to(folder) for folder in wanted) or not source.exists():
            continue
        if source.is_relative_to(options.build.resolve()):
            continue
        count += 1
        arguments = clang_arguments(entry["command"], str(root / "cmake/pch.h"))
        stamp = options.cache / key_of(source, arguments, roots, salt)
        if not stamp.exists():
            todo.append((source, arguments, stamp))

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            pool.submit(check, options.tidy, source, arguments): (source, stamp)
            for source, arguments, stamp in todo
        }
        for job in concurrent.futures.as_completed(jobs):
            source, stamp = jobs[job]
            passed, text = job.result()
            if passed:
                stamp.touch()
            else:
                failed += 1
                print(f"{source.relative_to(root)}:\n{text}")
    print(f"clang-tidy: {count} files, {len(todo)} checked, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
