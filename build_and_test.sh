#!/usr/bin/env bash
# Builds the image and tests it; with --local: sets up and tests without a container, which is what CI calls.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./build_and_test.sh [--file DOCKERFILE] [--no-gpu] [-- DOCKER_BUILD_OPTION...]
       ./build_and_test.sh --local

Builds the image, runs the smoke tests and the verification of the stack in it, starts it, has it label
samples/parcels.ply over HTTP, checks the answer, stops it, and checks that it ended well.

  --file DOCKERFILE  Dockerfile.gpu (the default) or Dockerfile.pytorch
  --no-gpu           do not use a GPU, though there is one; without one this is chosen anyway
  --local            no container: set up .venv (see ./run_local.sh --help), then run ruff, shellcheck, shfmt,
                     mypy and pytest, in this order, and stop at the first that fails
  --help             this text

Environment: IMAGE_NAME   name of the image (ml-service:conda-cuda124; of Dockerfile.pytorch ml-service:pytorch-cuda126)
             TEST_PORT    port on this machine for the test (5901)
             RUN_OPTIONS  more options for docker run
             SMOKE_OPTIONS  more options for smoke_tests.py
             TEST_PROCESSES  with --local: how many processes run the tests (3)
TEXT
}

say() { printf '== %s\n' "$*"; }
fail() {
  printf 'build_and_test.sh: %s\n' "$*" >&2
  exit 1
}
misuse() {
  usage >&2
  exit 2
}
step() {
  say "$@"
  "$@"
}

test_locally() {
  # Tests start some hundred processes: Python keeps what it has compiled.
  unset PYTHONDONTWRITEBYTECODE
  ./run_local.sh --setup --tests --packages
  # libs/ is built while the code is read, which takes one core.
  trap wait EXIT
  ./run_local.sh --setup --tests &
  local building=$!
  PATH=$PWD/.venv/bin:$PATH
  local scripts=(*.sh .ci/run tests/containers/*.sh)
  step ruff check .
  step ruff format --check .
  step shellcheck "${scripts[@]}"
  step shfmt -i 2 -ci -d "${scripts[@]}"
  step mypy
  wait "$building"
  # Each file of tests, and each folder that conftest.py names, in one process. One more than CI has cores: tests wait
  # for services to start and for deadlines to pass, and then a core would be idle.
  step pytest -q -n "${TEST_PROCESSES:-3}" --dist loadfile --no-loadscope-reorder
}

# Waits until the container answers /health, or ends.
wait_ready() {
  local until=$((SECONDS + 300))
  until curl -fsS -o /dev/null "$url/health" 2>/dev/null; do
    [ "$(docker inspect -f '{{.State.Running}}' "$container")" = true ] || {
      docker logs "$container" >&2
      fail "the container ended before it was ready; its words are above."
    }
    [ $SECONDS -lt $until ] || {
      docker logs --tail 50 "$container" >&2
      fail "the service was not ready after 300 s; its last words are above."
    }
    sleep 1
  done
}

# Sends the sample, and holds the answer against the number of points in the sample's header.
label_sample() {
  local points labels kinds status
  points=$(head -c 1000 samples/parcels.ply | grep -a -m1 '^element vertex' | grep -oE '[0-9]+')
  status=$(curl -s -o /dev/null -w '%{http_code}' --max-time 180 --data-binary @samples/parcels.ply "$url/v1/segment")
  [ "$status" = 401 ] || fail "without an API key the status is $status; 401 is what a service with keys gives."
  curl -fsS --max-time 180 -H "X-API-Key: $key" -H 'Content-Type: application/octet-stream' \
    --data-binary @samples/parcels.ply -o "$answer" "$url/v1/segment" || fail "POST $url/v1/segment failed: $(cat "$answer" 2>/dev/null)"
  labels=$(grep -oE '"labels": ?\[[^]]*' "$answer" | sed 's/.*\[//' | tr ',' '\n')
  [ "$(wc -l <<<"$labels")" -eq "$points" ] || fail "$points points were sent, $(wc -l <<<"$labels") labels came back."
  kinds=$(tr -d ' ' <<<"$labels" | sort | uniq -c | sort -rn | awk '{ printf "%s%s: %s", sep, $2, $1; sep = ", " }')
  grep -q , <<<"$kinds" || fail "every point got the same label ($kinds); the sample has boxes and background."
  say "the sample came back labelled: $points points ($kinds)"
}

test_image() {
  local gpu=() check=warn smoke=() stack=(-e NO_GPU=1)
  if [ "$use_gpu" = yes ] && command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    gpu=(--gpus all) check=strict smoke=(--require-gpu) stack=()
    say "with the GPU: $(nvidia-smi -L | head -1)"
  else
    say "without a GPU: what needs one is skipped"
  fi
  local options=()
  read -ra options <<<"${RUN_OPTIONS:-}"
  local run=(docker run ${gpu[@]+"${gpu[@]}"} -e "CUDA_CHECK=$check" ${options[@]+"${options[@]}"})
  local more=()
  read -ra more <<<"${SMOKE_OPTIONS:-}"

  step docker build -f "$file" -t "$image" "${build_options[@]+"${build_options[@]}"}" .
  step "${run[@]}" --rm "$image" python smoke_tests.py ${smoke[@]+"${smoke[@]}"} ${more[@]+"${more[@]}"}
  if [ "$file" = Dockerfile.gpu ]; then
    step "${run[@]}" ${stack[@]+"${stack[@]}"} --rm "$image" ./test_cuda124_stack.sh
  fi

  url=http://127.0.0.1:$port
  curl -s -o /dev/null "$url" && fail "something answers on port $port already; name another one with TEST_PORT."
  answer=$(mktemp)
  say "starting $image on port $port"
  key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  container=$("${run[@]}" -d -e "PORT=$port" -e "API_KEYS=test:$key" -p "127.0.0.1:$port:$port" "$image")
  trap 'docker rm -f "$container" >/dev/null 2>&1 || true; rm -f "$answer"' EXIT
  wait_ready
  say "ready: $(curl -fsS "$url/health")"
  label_sample
  say "stopping"
  docker stop -t 60 "$container" >/dev/null
  local status
  status=$(docker inspect -f '{{.State.ExitCode}}' "$container")
  [ "$status" -eq 0 ] || fail "after docker stop the exit status is $status; 0 is what a service that was asked to end gives."
  say "passed: $image"
}

cd "$(dirname "${BASH_SOURCE[0]}")"
file=Dockerfile.gpu use_gpu=yes port=${TEST_PORT:-5901}
build_options=()
if [ "${1:-}" = --local ]; then
  [ $# -eq 1 ] || misuse
  test_locally
  exit 0
fi
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h)
      usage
      exit 0
      ;;
    --file)
      [ $# -ge 2 ] || misuse
      file=$2
      shift
      ;;
    --file=*) file=${1#--file=} ;;
    --no-gpu) use_gpu=no ;;
    --)
      shift
      build_options=("$@")
      break
      ;;
    *) misuse ;;
  esac
  shift
done
[ -f "$file" ] || fail "there is no $file; --file takes Dockerfile.gpu or Dockerfile.pytorch."
case $file in
  Dockerfile.pytorch) image=${IMAGE_NAME:-ml-service:pytorch-cuda126} ;;
  *) image=${IMAGE_NAME:-ml-service:conda-cuda124} ;;
esac
command -v docker >/dev/null || fail "docker is not installed; --local tests without it."
docker version >/dev/null 2>&1 || fail "no Docker Engine answers: start it, or let this user use it; --local tests without it."
test_image
