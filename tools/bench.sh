#!/usr/bin/env bash
# Every C++ micro-benchmark, then every whole-model benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
for program in build/release/benchmarks/bench_*; do
  [ -f "$program" ] && [ -x "$program" ] && "$program"
done
for script in benchmarks/*.py; do tools/run.sh python "$script"; done
