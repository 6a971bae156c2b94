#!/usr/bin/env bash
# One command from a fresh clone to a running service: sets up .venv, starts PointServe and labels the bundled sample.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./run_local.sh [--port N] [--model NAME] [--once]
       ./run_local.sh --setup [--tests] [--packages]

Sets up a virtual environment in .venv (once: 3 GB to download, 6 GB of disk, 10 GB while it is made),
starts the service on 127.0.0.1, sends it samples/parcels.ply, writes the labelled cloud and a picture
of it under output/ and keeps the service running until Ctrl-C.

  --port N      listen on this port (default 5001)
  --model NAME  serve this model instead of the bundled one, "parcels"
  --once        stop after the sample; the exit status is 0 when it was labelled
  --setup       only set up .venv
  --tests       with --setup: also what lint, type checks and tests need; on Debian, as root, Chromium too
  --packages    with --setup: only what pip downloads: no libs/, no Chromium
  --help        this text

Environment: PYTHON names the interpreter to use (3.10, 3.11 or 3.12); otherwise one is looked for.
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$root"
venv=$root/.venv
log=$venv/setup.log
# 6 GB stay; the rest is what pip downloads and unpacks, which is then deleted.
needed_gb=10

say() { printf '%s\n' "$*"; }
fail() {
  printf 'run_local.sh: %s\n' "$*" >&2
  exit 1
}
misuse() {
  printf 'run_local.sh: %s; see ./run_local.sh --help\n' "$*" >&2
  exit 2
}

# Whether the interpreter runs at all (a version manager's shim may not) and is of a version that has all wheels.
works() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    works "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.10, 3.11 or 3.12."
    say "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3.10 python3 python "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[012]*/bin/python3; do
    if works "$candidate"; then
      say "$candidate"
      return
    fi
  done
  fail "no working Python 3.10, 3.11 or 3.12 was found (python3 is $(python3 -V 2>/dev/null || echo missing)); install one, or name it: PYTHON=/path/to/python3.11 ./run_local.sh"
}

# What the environment was made from; when it changes, pip runs again.
fingerprint() {
  "$venv/bin/python" - "$@" <<'PY'
import hashlib, pathlib, sys

digest = hashlib.sha256(sys.version.encode() + sys.prefix.encode())
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        made = {"build", "tests", "__pycache__"} & set(file.parts) or file.suffix == ".so" or ".egg-info" in str(file)
        if file.is_file() and not made:
            digest.update(str(file).encode() + file.read_bytes())
print(digest.hexdigest())
PY
}

make_venv() {
  local python free_kb
  python=$(find_python) || exit 1
  free_kb=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
  if [ "$free_kb" -lt $((needed_gb * 1024 * 1024)) ]; then
    fail "the set-up needs $needed_gb GB of free disk and $root has $((free_kb / 1024 / 1024)) GB; free some, then run this again."
  fi
  # pip's cache keeps 3 GB more, for a next time: only where there is room.
  [ "$free_kb" -ge $(((needed_gb + 3) * 1024 * 1024)) ] || export PIP_NO_CACHE_DIR=1
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    fail "$python cannot make virtual environments; install its venv package (Debian, Ubuntu: apt install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')), then run this again."
  say "Making .venv with $("$python" -V) ..."
  "$python" -m venv --clear "$venv" >/dev/null || fail "the virtual environment could not be made with $python."
}

# Runs pip with its progress on the terminal and its complaints in the log; a failure becomes one sentence.
install() {
  local why options=()
  [ -t 1 ] || options+=(-q)
  # What is imported is compiled then; all 11,000 modules would take pip another 40 s.
  [ -n "${PYTHONDONTWRITEBYTECODE:-}" ] || options+=(--no-compile)
  # Wheels are unpacked from pip's temporary folder: /tmp may be a small memory disk, so it is beside them.
  mkdir -p "$venv/tmp"
  if TMPDIR=$venv/tmp "$venv/bin/python" -m pip --disable-pip-version-check install ${options[@]+"${options[@]}"} --retries 2 "$@" 2>>"$log"; then
    return
  fi
  if grep -qiE 'no space left|disk quota' "$log"; then
    why="the disk is full"
  elif grep -qiE 'name resolution|failed to establish|connection (refused|reset|broken|aborted)|timed out|unreachable|getaddrinfo|proxy|certificate' "$log"; then
    why="the package index cannot be reached; is there a network connection"
  elif grep -qi 'no matching distribution' "$log"; then
    why="a package has no wheel for $(uname -s) on $(uname -m): $(grep -i 'no matching distribution' "$log" | tail -1 | sed 's/.*found for //')"
  else
    why="pip failed: $(grep -i '^ *error' "$log" | tail -1)"
  fi
  fail "installing stopped because $why (details in .venv/setup.log); run this again to go on."
}

set_up() {
  local extras=cu124,e57,build stamp=$venv/.installed now lib
  [ "$1" = tests ] && extras=$extras,test
  works "$venv/bin/python" || make_venv
  : >"$log"
  now=$(fingerprint pins.txt pyproject.toml)
  if ! grep -qx "$extras $now" "$stamp" 2>/dev/null && ! grep -qx "$extras,test $now" "$stamp" 2>/dev/null; then
    say "Installing the pinned packages of pins.txt; the first time takes minutes ..."
    install -c pins.txt pip setuptools wheel
    install -c pins.txt --no-build-isolation -e ".[$extras]"
    rm -rf "$venv/tmp"
    printf '%s %s\n' "$extras" "$now" >"$stamp"
  fi
  compgen -G "$venv/lib/python*/site-packages/spconv_cu124-*" >/dev/null ||
    say "spconv has no wheel for $(uname -s) on $(uname -m); going on without it: the service's own engine does its work."
  [ "$2" = libs ] || return 0
  [ "$1" != tests ] || install_browser
  for lib in libs/*/; do
    [ ! -f "${lib}setup.py" ] || build_lib "${lib%/}" "$1"
  done
}

# What the tests of the page drive; without it they skip. Ubuntu has no such packages: its Chromium comes by snap.
install_browser() {
  ! command -v chromedriver >/dev/null 2>&1 || return 0
  if [ "$EUID" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "There is no Chromium with chromedriver: the tests of the page will skip (Debian: apt install chromium chromium-driver)."
    return 0
  fi
  say "Installing Chromium, for the tests of the page ..."
  if ! { apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; } >>"$log" 2>&1; then
    say "Warning: apt could not install Chromium (details in .venv/setup.log); the tests of the page will skip."
  fi
}

# Builds one folder of libs/. Where that is not possible the service runs without it; the tests then want to know.
build_lib() {
  local stamp now neighbour sources=("$1")
  stamp=$venv/.built-$(basename "$1")
  # Folders without a setup.py hold headers that the others include.
  for neighbour in libs/*/; do
    [ -f "${neighbour}setup.py" ] || sources+=("$neighbour")
  done
  now=$(fingerprint "${sources[@]}")
  [ "$now" != "$(cat "$stamp" 2>/dev/null)" ] || return 0
  if ! command -v "${CXX:-c++}" >/dev/null 2>&1 || ! has_headers; then
    say "Warning: $1 is not built, for want of a C++ compiler or Python's headers; the service runs without it, more slowly."
    return 0
  fi
  say "Building $1 ..."
  if (install --no-build-isolation --no-deps --force-reinstall "./$1"); then
    printf '%s\n' "$now" >"$stamp"
  elif [ "$2" = tests ]; then
    exit 1
  else
    say "Warning: $1 is not built; the service runs without it, more slowly."
  fi
  rm -rf "$venv/tmp"
}

has_headers() {
  "$venv/bin/python" -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}

mode=run tests=no libs=libs
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --port | --model)
      [ $# -ge 2 ] || misuse "$1 needs a value"
      options+=("$1" "$2")
      shift
      ;;
    --port=* | --model=* | --once) options+=("$1") ;;
    --setup) mode=setup ;;
    --tests) tests=tests ;;
    --packages) libs=no ;;
    *) misuse "unknown option $1" ;;
  esac
  shift
done
[ "$mode" = setup ] || [ "$tests$libs" = nolibs ] || misuse "--tests and --packages go with --setup"

set_up "$tests" "$libs"
[ "$mode" = run ] || exit 0
# exec: signals go straight to the process that owns the service. (The odd expansion is for bash 3 with set -u.)
exec "$venv/bin/python" -m service.cli demo ${options[@]+"${options[@]}"}
