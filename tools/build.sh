#!/usr/bin/env bash
# Configures and builds one CMake preset. Usage: tools/build.sh release|asan
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
if [ ! -e "build/$preset/build.ninja" ]; then cmake --preset "$preset"; fi
cmake --build --preset "$preset"
