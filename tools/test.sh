#!/usr/bin/env bash
# Runs tests; make built them already (asan builds itself).
# Every part runs even if one before it failed.
# Usage: tools/test.sh [all|asan]
#   (nothing)  C++ tests, Python tests that need no peer, lint
#   asan       C++ tests under ASan and UBSan
#   all        everything
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-}
jobs=$(nproc)

cpp_tests() { ctest --test-dir "build/$1" --output-on-failure -j "$jobs" --no-tests=error | tools/quiet_ctest.sh; }

asan() {
  tools/build.sh asan || return
  ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 cpp_tests asan
}

if [ "$mode" = asan ]; then
  asan
  exit
fi
failed=()
part() {
  local name=$1
  shift
  echo "== $name"
  if ! "$@"; then failed+=("$name"); fi
}
part "C++ tests" cpp_tests release
if [ "$mode" = all ]; then
  for isa in portable avx2 avx512 vnni; do # a name above what the processor has changes nothing
    OCTAVO_ISA=$isa part "C++ tests, OCTAVO_ISA=$isa" cpp_tests release
  done
  OCTAVO_NUM_THREADS=1 part "C++ tests, one thread" cpp_tests release
  part "Python tests" tools/run.sh python -m pytest tests/python
  part "C++ tests with sanitizers" asan
  part "Capture with sanitizers" tools/capture_asan.sh
else
  part "Python tests" tools/run.sh python -m pytest tests/python -m "not peers and not long"
fi
part lint tools/lint.sh
if [ ${#failed[@]} -gt 0 ]; then
  printf 'test: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
