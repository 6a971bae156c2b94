#!/usr/bin/env bash
# Sets up the environment of run_local.sh, then lints, checks types and runs the tests. CI calls this.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./build_and_test.sh --local

Sets up .venv (see ./run_local.sh --help), then runs ruff, shellcheck, shfmt, mypy and pytest,
in this order, and stops at the first that fails.
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")"
case "$#:${1:-}" in
  1:--local) ;;
  1:--help | 1:-h)
    usage
    exit 0
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac

./run_local.sh --setup --tests
PATH=$PWD/.venv/bin:$PATH
scripts=(run_local.sh build_and_test.sh .ci/run)

step() {
  printf '== %s\n' "$*"
  "$@"
}
step ruff check .
step ruff format --check .
step shellcheck "${scripts[@]}"
step shfmt -i 2 -ci -d "${scripts[@]}"
step mypy
step pytest -q
