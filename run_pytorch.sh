#!/usr/bin/env bash
# Starts PointServe in the image of Dockerfile.pytorch: prints the environment, then becomes the service (page and API on
# port 7860, or PORT), or the command given. Without a container: the same in an environment that has what it needs.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
export PORT=${PORT:-7860} EXPECTED_CUDA=${EXPECTED_CUDA:-12.6}
python -c 'from service import environment; print("\n".join(environment.lines(environment.report())), flush=True)'
case ${CUDA_CHECK:=warn} in
  strict | warn)
    if ! python smoke_tests.py --startup --require-gpu; then
      if [ "$CUDA_CHECK" = strict ]; then
        echo "run_pytorch.sh: not started, for the reasons above; CUDA_CHECK=warn starts all the same." >&2
        exit 1
      fi
      echo "run_pytorch.sh: warning: going on in spite of the above." >&2
    fi
    ;;
  off) ;;
  *)
    echo "run_pytorch.sh: CUDA_CHECK is $CUDA_CHECK; it can be strict, warn or off." >&2
    exit 1
    ;;
esac
# pointserve serve is the parent of gunicorn and of the process that owns the GPU.
[ $# -gt 0 ] || set -- pointserve serve
exec "$@"
