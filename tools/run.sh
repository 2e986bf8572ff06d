#!/usr/bin/env bash
# Runs a command with the build's package and CLI first in line, whatever .venv is.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PATH=$root/build/release/bin:$root/.venv/bin:$PATH
export PYTHONPATH=$root/build/release/python${PYTHONPATH:+:$PYTHONPATH}
exec "$@"
