#!/usr/bin/env bash
# The verification of the CUDA 12.4 stack, in the words of its users. Runs inside the image:
#   docker run --rm --gpus all ml-service:conda-cuda124 ./test_cuda124_stack.sh
# NO_GPU=1 leaves out what needs a GPU (start the container with -e CUDA_CHECK=warn then).
set -eo pipefail

# shellcheck source=/dev/null
source /opt/conda/etc/profile.d/conda.sh
conda activate pointcept-torch2.5.0-cu12.4
conda --version
mamba --version
python --version
python -c 'import torch; print(torch.__version__, torch.version.cuda)'
python -c 'import torch; assert torch.version.cuda == "12.4", torch.version.cuda'
python -c 'import spconv.pytorch, cumm; print("spconv", __import__("spconv").__version__, "cumm", cumm.__version__)'
python -c 'import pointops._C'
python -c 'import pointgroup_ops_cuda'
python -c 'import sparseconv._C'
if [ -n "${NO_GPU:-}" ]; then
  echo "NO_GPU: the checks on the GPU are left out."
  exit 0
fi
nvidia-smi
python -c 'import torch; assert torch.cuda.is_available(); print(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0))'
python - <<'PY'
import torch
import spconv.pytorch as spconv

indices = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [0, 2, 2, 2]], dtype=torch.int32, device="cuda")
features = torch.randn(3, 4, device="cuda")
x = spconv.SparseConvTensor(features, indices, spatial_shape=[4, 4, 4], batch_size=1)
conv = spconv.SubMConv3d(4, 8, kernel_size=3, indice_key="subm0").cuda()
print("SubMConv3d", tuple(conv(x).features.shape))
PY
