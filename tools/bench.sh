#!/usr/bin/env bash
# Every C++ micro-benchmark, then every whole-model benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
for program in build/release/benchmarks/bench_*; do
  [ -f "$program" ] && [ -x "$program" ] && "$program"
done
# The others are modules of these.
for script in $(grep -l __main__ benchmarks/*.py); do tools/run.sh python "$script"; done
