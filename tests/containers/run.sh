#!/usr/bin/env bash
# Lints, builds, starts and asks both images on a machine that reaches apt and PyPI, but no registry and no conda channel.
#   tests/containers/run.sh [lint] [pytorch] [gpu] [compose]      all of them without arguments
# Needs root, mmdebstrap, patchelf, curl, git, a CPython 3.10 (PYTHON310 names its prefix; a copy is moved), and .venv (for the
# linters). 40 GB of disk under WORK (default /tmp/pointserve-containers); a Docker Engine is made there if none answers.
# Debian trees stand in for NVIDIA's and PyTorch's images, with CUDA 12.4's compiler and PyPI's torch 2.7.1 (CUDA 12.6), and
# standin.py for Miniforge. CLIP_MIRROR names a bare clone of openai/CLIP; without it CLIP is left out.
# ARCHITECTURES (default all) makes the build shorter.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export WORK=${WORK:-/tmp/pointserve-containers}
port=${SERVE_PORT:-18099}
# What no index here has as wheels, or nothing but GitHub has.
left_out=torch-scatter,torch-cluster,torch-sparse,flash-attn

say() { printf '\n#### %s\n' "$*"; }
fail() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

# Makes a Debian tree with the host's certificate authorities, and an image of it.
tree() {
  local name=$1 suite=$2 components=$3 packages=$4
  docker image inspect "pointserve-tree-$name:1" >/dev/null 2>&1 && return
  say "base: a Debian tree for $name"
  # shellcheck disable=SC2016 # $1 is mmdebstrap's
  mmdebstrap --quiet --variant=minbase --components="$components" --include="ca-certificates,$packages" \
    --customize-hook='mkdir -p "$1"/usr/local/share/ca-certificates
      cp /usr/local/share/ca-certificates/*.crt "$1"/usr/local/share/ca-certificates/ 2>/dev/null || true
      chroot "$1" update-ca-certificates
      rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
    "$suite" "$WORK/$name.tar"
  docker import "$WORK/$name.tar" "pointserve-tree-$name:1"
  rm "$WORK/$name.tar"
}

base() {
  local name=$1 of=$2
  docker build -q --network host --target "$name" --build-arg "TREE=pointserve-tree-$of:1" \
    -t "pointserve-base-$name:1" -f "$here/bases.Dockerfile" "$here"
}

# The libraries that a CPython of the host is linked with.
libraries=libffi8,libssl3t64,zlib1g,libbz2-1.0,liblzma5,libreadline8t64,libsqlite3-0,libncursesw6

bases_gpu() {
  tree plain trixie main "$libraries"
  tree cuda trixie main,contrib,non-free "$libraries,nvidia-cuda-toolkit,g++-13"
  base plain plain
  base cuda cuda
}

bases_pytorch() {
  tree python bookworm main python3,python3-pip,python3-venv,python3-dev
  base torch python
}

# Serves the stand-in and the mirror of CLIP on the loopback address.
serve() {
  local prefix=${PYTHON310:-}
  if [ -z "$prefix" ]; then
    prefix=$(python3.10 -c 'import sys; print(sys.base_prefix)' 2>/dev/null || true)
    [ -n "$prefix" ] || prefix=$(compgen -G "$HOME/.pyenv/versions/3.10.*" | tail -1 || true)
  fi
  [ -n "$prefix" ] || fail "no CPython 3.10 was found; name its prefix with PYTHON310."
  mkdir -p "$WORK/serve/openai"
  if [ -n "${CLIP_MIRROR:-}" ]; then
    [ -d "$WORK/serve/openai/CLIP.git" ] || git clone -q --bare "$CLIP_MIRROR" "$WORK/serve/openai/CLIP.git"
    git -C "$WORK/serve/openai/CLIP.git" update-server-info
  else
    left_out=$left_out,clip
  fi
  # Made once: another file would have another checksum, and the build would begin anew.
  [ -s "$WORK/serve/miniforge.sh" ] ||
    "$root/.venv/bin/python" "$here/standin.py" "$prefix" "$WORK/serve/miniforge.sh" torch-scatter,torch-cluster,torch-sparse
  (cd "$WORK/serve" && exec python3 -m http.server "$port" --bind 127.0.0.1) >"$WORK/serve.log" 2>&1 &
  server=$!
  trap 'kill $server' EXIT
}

wait_healthy() {
  local container=$1 state=""
  for _ in $(seq 120); do
    state=$(docker inspect -f '{{.State.Health.Status}}' "$container")
    [ "$state" = healthy ] && return
    sleep 1
  done
  fail "$container is $state after two minutes: $(docker inspect -f '{{json .State.Health}}' "$container")"
}

lint() {
  say "lint"
  cd "$root"
  hadolint Dockerfile.gpu Dockerfile.pytorch
  shellcheck ./*.sh tests/containers/*.sh
  shfmt -i 2 -ci -d ./*.sh tests/containers/*.sh
  # The schema's reader does not know the tag with which compose takes something away.
  sed 's/!reset //' docker-compose.cpu.yml >"$WORK/cpu.yml"
  check-jsonschema --builtin-schema vendor.compose-spec docker-compose.ml.yml "$WORK/cpu.yml"
  docker compose -f docker-compose.ml.yml config -q
  docker compose -f docker-compose.ml.yml -f docker-compose.cpu.yml config -q
  check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
}

pytorch() {
  bases_pytorch
  say "Dockerfile.pytorch"
  cd "$root"
  RUN_OPTIONS="--network host" ./build_and_test.sh --file Dockerfile.pytorch --no-gpu -- --network host \
    --build-arg BASE_IMAGE=pointserve-base-torch:1 --build-arg FLASH_ATTN_VERSION= --build-arg PYG_WHEELS= \
    --build-arg FORCE_CUDA=0
  say "its health check, as nobody in particular and on a read-only disk"
  local container
  container=$(docker run -d --network host --read-only --tmpfs /tmp -e PORT=7861 ml-service:pytorch-cuda126)
  wait_healthy "$container"
  docker exec "$container" sh -c 'id -u' | grep -qx 10001
  curl -fsS http://127.0.0.1:7861/health
  # Nobody has said who may use it: it has made a key.
  docker logs "$container" 2>&1 | grep -q "curl -H 'X-API-Key: "
  [ "$(curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:7861/v1/models)" = 401 ]
  docker rm -f "$container" >/dev/null
}

gpu() {
  bases_gpu
  serve
  say "Dockerfile.gpu"
  cd "$root"
  local checksum build=()
  checksum=$(sha256sum "$WORK/serve/miniforge.sh" | cut -d' ' -f1)
  build=(--network host
    --build-arg BASE_IMAGE=pointserve-base-cuda:1 --build-arg RUNTIME_IMAGE=pointserve-base-plain:1
    --build-arg "MINIFORGE_URL=http://127.0.0.1:$port/miniforge.sh" --build-arg "MINIFORGE_SHA256=$checksum"
    --build-arg "GIT_BASE=http://127.0.0.1:$port/" --build-arg "LEAVE_OUT=$left_out" --build-arg MAX_JOBS=2)
  [ -z "${ARCHITECTURES:-}" ] || build+=(--build-arg "TORCH_CUDA_ARCH_LIST=$ARCHITECTURES")
  RUN_OPTIONS="--network host" SMOKE_OPTIONS="--complete --without $left_out" \
    ./build_and_test.sh --no-gpu -- "${build[@]}"

  say "its checks: a wrong checksum stops the build; no compilers; not root; the entry's refusal; a read-only disk"
  if docker build --progress plain "${build[@]}" --build-arg "MINIFORGE_SHA256=${checksum//[1-9]/0}" --no-cache-filter build --target build \
    -f Dockerfile.gpu . >"$WORK/wrong.log" 2>&1; then
    fail "a wrong checksum of the installer did not stop the build."
  fi
  grep -q 'miniforge.sh: FAILED' "$WORK/wrong.log"
  local run=(docker run --rm --network host)
  # shellcheck disable=SC2016 # id is asked in the container
  "${run[@]}" -e CUDA_CHECK=off ml-service:conda-cuda124 bash -c '! command -v gcc g++ cc c++ nvcc && [ "$(id -u)" = 10001 ]'
  "${run[@]}" ml-service:conda-cuda124 && fail "without a GPU CUDA_CHECK=strict must refuse to start."
  # What cuobjdump says of the extensions, beside what the image says of them itself.
  local container library
  container=$(docker create ml-service:conda-cuda124)
  rm -rf "$WORK/extensions"
  mkdir -p "$WORK/extensions"
  for library in pointops pointgroup_ops sparseconv; do
    docker cp -q "$container:/opt/conda/envs/pointcept-torch2.5.0-cu12.4/lib/python3.10/site-packages/$library" \
      "$WORK/extensions/"
  done
  docker rm "$container" >/dev/null
  tar -C "$WORK/extensions" -c . | docker run --rm -i pointserve-base-cuda:1 bash -euc '
    mkdir /extensions
    tar -x -C /extensions
    find /extensions -name "*.so" | while read -r file; do
      echo "cuobjdump: $file: $(cuobjdump --list-elf "$file" 2>/dev/null | grep -oE "sm_[0-9]+" | sort -u | tr "\n" " ")"
    done'
  "${run[@]}" -e CUDA_CHECK=off ml-service:conda-cuda124 python smoke_tests.py --only architectures

  container=$(docker run -d --network host --read-only --tmpfs /tmp -e CUDA_CHECK=warn -e PORT=5002 \
    -e PUBLISHED=127.0.0.1 ml-service:conda-cuda124)
  wait_healthy "$container"
  curl -fsS 'http://127.0.0.1:5002/health?verbose'
  docker rm -f "$container" >/dev/null
  kill "$server"
  trap - EXIT
}

compose() {
  say "docker compose, with the CPU override"
  cd "$root"
  local files=(-f docker-compose.ml.yml -f docker-compose.cpu.yml -f tests/containers/compose.host.yml)
  docker compose "${files[@]}" up -d --wait --no-build
  docker compose "${files[@]}" ps
  curl -fsS --data-binary @samples/parcels.ply -o "$WORK/labels.json" http://127.0.0.1:5001/v1/segment
  head -c 200 "$WORK/labels.json"
  grep -q '"labels":' "$WORK/labels.json"
  docker compose "${files[@]}" down -v
}

mkdir -p "$WORK"
PATH=$root/.venv/bin:$PATH
[ $# -gt 0 ] || set -- lint pytorch gpu compose
if [ -z "${INSIDE:-}" ]; then
  INSIDE=1 exec "$here/engine.sh" "$here/run.sh" "$@"
fi
for part in "$@"; do
  case $part in
    lint | pytorch | gpu | compose) "$part" ;;
    *) fail "there is no part $part; there are lint, pytorch, gpu and compose." ;;
  esac
done
say "passed: $*"
