#!/usr/bin/env bash
# Everything that needs a GPU: builds the libraries, runs the tests marked gpu, and measures against Pointcept.
set -uo pipefail

usage() {
  cat <<'TEXT'
Usage: benchmarks/gpu.sh [--out DIR] [--pointcept CHECKOUT] [PART...]

Runs the parts in the order given, all of them if none is named, and goes on where one fails; the end lists them with
their times. What a part prints goes to the screen and to DIR/PART.log.

  libs      build pointops, pointgroup_ops and sparseconv with nvcc, run all their tests, print each operator's memory
  sanitize  every operator under compute-sanitizer's memcheck and racecheck
  tests     the service's tests marked gpu
  peers     build Pointcept's libs, and time ours against them (wants --pointcept)
  rules     Pointcept's farthest points built without fused multiply-add, against ours (wants --pointcept)
  forward   forward passes of each family (against Pointcept's with --pointcept)
  tta       the test-time procedure against Pointcept's tester
  families  every family in its full size: seconds and memory
  batching  batches of small clouds against one at a time, over HTTP
  configs   a small cloud through each of Pointcept's configurations (wants --pointcept)
  devices   the service on all GPUs against one of them (wants two)

  --out DIR             where logs and builds go (gpu-results)
  --pointcept CHECKOUT  a checkout of Pointcept
Environment: PYTHON (python3), TORCH_CUDA_ARCH_LIST (this GPU's), MAX_JOBS (the cores)
TEXT
}

out=gpu-results pointcept='' parts=() python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2 && shift ;;
    --pointcept) pointcept=$2 && shift ;;
    --help) usage && exit ;;
    libs | sanitize | tests | peers | rules | forward | tta | families | batching | configs | devices) parts+=("$1") ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done
[ ${#parts[@]} -gt 0 ] || parts=(libs sanitize tests peers rules forward tta families batching configs devices)
mkdir -p "$out" && out=$(cd "$out" && pwd)
peer=(${pointcept:+--pointcept "$pointcept"})
export PYTHONUNBUFFERED=1 FORCE_CUDA=1
export PYTHONPATH=$out/site${PYTHONPATH:+:$PYTHONPATH}

# Installs a library into a folder, from a copy of it and its neighbours: a build writes beside its sources.
build() {
  local from
  from=$(mktemp -d) && cp -rL "$1/.." "$from/libs" && rm -rf "$from/libs/$(basename "$1")/build"
  "$python" -m pip install -q --no-build-isolation --no-deps --no-index --upgrade --target "$2" "$from/libs/$(basename "$1")"
  local status=$?
  rm -rf "$from"
  return $status
}

run_libs() {
  local failed=0 lib jobs=()
  for lib in pointops pointgroup_ops sparseconv; do
    build "libs/$lib" "$out/site" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  [ $failed = 0 ] && "$python" -m pytest -q -p no:cacheprovider libs && "$python" -m benchmarks.every_operator --memory --device cuda
}

run_sanitize() {
  local failed=0 tool
  for tool in memcheck racecheck; do
    compute-sanitizer --tool $tool --error-exitcode 1 --kernel-name-exclude kns=at:: \
      "$python" -m benchmarks.every_operator --device cuda || failed=1
  done
  return $failed
}

run_tests() {
  "$python" -m pytest -q -p no:cacheprovider -m gpu tests
}

run_peers() {
  build "$pointcept/libs/pointops" "$out/peer" && build "$pointcept/libs/pointgroup_ops" "$out/peer" || return
  local failed=0 what
  for what in knn fps cluster; do
    "$python" -m benchmarks.libs_pointops $what --device cuda --pointcept "$out/peer" || failed=1
  done
  return $failed
}

run_rules() {
  NVCC_APPEND_FLAGS=-fmad=false build "$pointcept/libs/pointops" "$out/peer-unfused" || return
  "$python" -m benchmarks.libs_pointops fps --device cuda --pointcept "$out/peer-unfused"
}

run_forward() {
  "$python" -m benchmarks.forward_gpu "${peer[@]}" --families SpUNet-v1m1 PT-v3m1 PT-v3m2 PT-v3m3
}

run_tta() {
  local failed=0 model
  for model in spunet ptv3; do
    "$python" -m benchmarks.tta_gpu "${peer[@]}" --model $model --train-s 60 --self || failed=1
  done
  return $failed
}

run_families() {
  "$python" -m benchmarks.families --device cuda --voxels 200000 --repeat 5
}

run_batching() {
  "$python" -m benchmarks.batching
}

run_configs() {
  "$python" -m benchmarks.configs "$pointcept" --device cuda --threads 1 --jobs 8 --table "$out/configs.json"
}

run_devices() {
  "$python" -m benchmarks.devices
}

summary=''
for part in "${parts[@]}"; do
  printf '== %s\n' "$part"
  begin=$SECONDS
  if [[ $part = @(peers|rules|configs) ]] && [ -z "$pointcept" ]; then
    result='left out: wants --pointcept'
  elif "run_$part" 2>&1 | tee "$out/$part.log"; then
    result=ran
  else
    result=FAILED
  fi
  summary+=$(printf '%-9s %4d s  %s' "$part" $((SECONDS - begin)) "$result")$'\n'
done
printf '== done\n%s' "$summary"
case $summary in *FAILED*) exit 1 ;; esac
