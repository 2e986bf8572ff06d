#!/usr/bin/env bash
# Installs the packages of a list that are missing, then checks every version's leading part.
# Usage: tools/debian_packages.sh [LIST]
set -euo pipefail
list=${1:-$(dirname "$0")/debian-packages.txt}

fail() { echo "setup: $*" >&2; exit 1; }
wanted() { sed -e 's/#.*//' "$list" | awk 'NF { print $1, $2 }'; }
installed_version() {
  dpkg-query -W -f='${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | awk '$1 == "installed" { print $2; exit }'
}

command -v dpkg-query >/dev/null || fail "this is not Debian: install what $list names by other means, then set OCTAVO_SKIP_PACKAGES=1"

missing=()
while read -r package _; do
  [ -n "$(installed_version "$package")" ] || missing+=("$package")
done < <(wanted)

if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}"
  root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "neither root nor sudo; as root run: apt-get install ${missing[*]}"
    root=(sudo)
  fi
  apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
fi

while read -r package prefix; do
  version=$(installed_version "$package")
  case "$version" in
    "$prefix"*) ;;
    "") fail "$package did not install" ;;
    *) fail "$package is at $version, but Octavo is built with $prefix (Debian 12)" ;;
  esac
done < <(wanted)
