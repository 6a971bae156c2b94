#!/usr/bin/env bash
# The image's entry: activates the conda environment, checks CUDA, then becomes the service, or the command given.
#   CUDA_CHECK     strict (default): end with a sentence when the GPU cannot be used; warn: say so and go on; off
#   EXPECTED_CUDA  the CUDA that torch must be built for (12.4)
#   CONDA_DIR      where conda is (/opt/conda)
set -euo pipefail

app=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=${CONDA_DEFAULT_ENV:-pointcept-torch2.5.0-cu12.4}
conda=${CONDA_DIR:-/opt/conda}
export EXPECTED_CUDA=${EXPECTED_CUDA:-12.4}

fail() {
  printf 'entrypoint.sh: %s\n' "$*" >&2
  exit 1
}

if [ ! -f "$conda/etc/profile.d/conda.sh" ]; then
  fail "there is no conda in $conda: build the image anew with Dockerfile.gpu, or say where it is with CONDA_DIR."
fi
# conda's own scripts read variables that may not be set.
set +u
# shellcheck source=/dev/null
. "$conda/etc/profile.d/conda.sh"
conda activate "$name" || fail "the environment $name cannot be activated; conda env list shows those that exist."
set -u

case ${CUDA_CHECK:=strict} in
  strict | warn)
    if ! python "$app/smoke_tests.py" --startup --require-gpu; then
      [ "$CUDA_CHECK" = warn ] || fail "not started, for the reasons above; CUDA_CHECK=warn starts all the same."
      echo "entrypoint.sh: warning: going on in spite of the above (CUDA_CHECK=warn)." >&2
    fi
    ;;
  off) ;;
  *) fail "CUDA_CHECK is $CUDA_CHECK; it can be strict, warn or off." ;;
esac

# pointserve serve is the parent of gunicorn (port 5001, or PORT) and of the process that owns the GPU, and ends both on
# a signal. gunicorn alone would have no engine to ask.
[ $# -gt 0 ] || set -- pointserve serve
exec "$@"
