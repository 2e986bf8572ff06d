#!/usr/bin/env bash
# Every check of form; each runs even if one before it failed. --fix rewrites what a tool can rewrite.
set -uo pipefail
cd "$(dirname "$0")/.."
# New files count before they are added; deleted ones do not.
files() { git ls-files -co --exclude-standard -- "$@" | while read -r file; do [ ! -e "$file" ] || echo "$file"; done; }
mapfile -t cpp < <(files '*.cpp' '*.h' '*.hpp')
venv=$PWD/.venv/bin

if [ "${1:-}" = --fix ]; then
  clang-format-14 -i "${cpp[@]}"
  "$venv/ruff" check --quiet --fix .
  "$venv/ruff" format --quiet .
  exit
fi

failed=()
check() {
  local name=$1
  shift
  if ! "$@"; then failed+=("$name"); fi
}
format() { # one line for each file; make format mends them
  clang-format-14 --dry-run -Werror "${cpp[@]}" 2>&1 | awk -F: '/error:/ && !seen[$1]++ { print $1 ":" $2 ": not formatted" }'
  return "${PIPESTATUS[0]}"
}
check clang-format format
check ruff "$venv/ruff" check --quiet --output-format concise .
check ruff-format "$venv/ruff" format --quiet --check .
if [ -e python/octavo/__init__.py ]; then check mypy "$venv/mypy" --no-error-summary; fi
check includes "$venv/python" tools/check_includes.py
check src-readme "$venv/python" tools/check_src_readme.py
check clang-tidy "$venv/python" tools/run_clang_tidy.py
if [ ${#failed[@]} -gt 0 ]; then
  echo "lint: failed: ${failed[*]}" >&2
  exit 1
fi
echo "lint: 7 checks passed"
