#!/usr/bin/env bash
# Tests of capture, and random programs, with octavo._capture under ASan and UBSan.
# CPython, torch and octavo._core are those of the release build: only memory that the module touches,
# and Python's objects (PYTHONMALLOC=malloc), are watched. Leaks are test_capture_robustness.py's.
# Usage: tools/capture_asan.sh [PROGRAMS]
set -euo pipefail
cd "$(dirname "$0")/.."
programs=${1:-500}
build=build/asan-capture
if [ ! -e $build/build.ninja ]; then
  cmake --preset asan -B $build -DOCTAVO_PYTHON=ON
fi
cmake --build $build --target octavo_capture
package=$build/package
rm -rf $package
mkdir -p $package
cp -asr "$PWD/build/release/python/octavo" $package/
ln -sf "$PWD/$build/python/octavo/_capture.so" $package/octavo/_capture.so

# Not with openvino, which loads libraries in a way (RTLD_DEEPBIND) that ASan ends the process for.
# libstdc++ beside it: ASan looks for __cxa_throw when the process starts.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export LD_PRELOAD PYTHONMALLOC=malloc PYTHONPATH=$PWD/$package
# A test asks for more memory than there is, and wants an error for it. Reports go to files: pytest
# keeps what a process that ends prints.
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:alloc_dealloc_mismatch=0
ASAN_OPTIONS+=:allocator_may_return_null=1:log_path=$PWD/build/asan-capture/report
export UBSAN_OPTIONS=print_stacktrace=1
python=.venv/bin/python
$python -m pytest -q -p no:cacheprovider tests/python -m "not long" \
  -k "capture and not leak and not random_programs and not tables and not settrace and not openvino"
$python tests/python/capture_fuzz.py --first 50000 --count "$programs"
