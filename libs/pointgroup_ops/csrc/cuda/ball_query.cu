// ballquery_batch_p on a GPU: neighbours are counted, then listed, by exact search in a tree of boxes; each list is then
// sorted by a warp, so that the result is the same every time.
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "../checks.h"
#include "box_tree.cuh"

namespace pointgroup_ops {
namespace {

using boxtree::Key;
using boxtree::kAllLanes;
using boxtree::kWarp;

constexpr int kThreads = 128;

struct Near {
  float q[3] = {0, 0, 0};
  int32_t begin = 0, end = 0, row = -1;
  float radius2;

  __device__ Near(const boxtree::TreeView& tree, const int32_t* ends, int clouds, int32_t at, float r2) : radius2(r2) {
    if (at >= tree.n) return;
    const float4 p = tree.points[at];
    q[0] = p.x;
    q[1] = p.y;
    q[2] = p.z;
    row = __float_as_int(p.w);
    const int cloud = boxtree::cloud_of(ends, clouds, row);
    begin = cloud == 0 ? 0 : ends[cloud - 1];
    end = ends[cloud];
  }
  __device__ Key limit() const { return row < 0 ? 0 : static_cast<Key>(__float_as_uint(radius2)) << 32 | 1u; }
};

struct Count : Near {
  int64_t count = 0;
  using Near::Near;
  __device__ void take(float d2, int32_t) { count += d2 < radius2; }
};

struct Fill : Near {
  int32_t* to = nullptr;
  using Near::Near;
  __device__ void take(float d2, int32_t index) {
    if (d2 < radius2) *to++ = index;
  }
};

__global__ void __launch_bounds__(kThreads) count_kernel(boxtree::TreeView tree, const int32_t* ends, int clouds,
                                                         float radius2, int64_t* counts) {
  __shared__ boxtree::Trail trails[kThreads / kWarp];
  const int32_t at = blockIdx.x * kThreads + threadIdx.x, warp_start = at - threadIdx.x % kWarp;
  if (warp_start >= tree.n) return;
  Count visit(tree, ends, clouds, at, radius2);
  boxtree::walk(tree, trails[threadIdx.x / kWarp], min(warp_start + kWarp / 2, tree.n - 1) / boxtree::kGpuLeaf, visit);
  if (visit.row >= 0) counts[visit.row] = visit.count;
}

__global__ void __launch_bounds__(kThreads) fill_kernel(boxtree::TreeView tree, const int32_t* ends, int clouds,
                                                        float radius2, const int32_t* start_len, int32_t* idx) {
  __shared__ boxtree::Trail trails[kThreads / kWarp];
  const int32_t at = blockIdx.x * kThreads + threadIdx.x, warp_start = at - threadIdx.x % kWarp;
  if (warp_start >= tree.n) return;
  Fill visit(tree, ends, clouds, at, radius2);
  if (visit.row >= 0) visit.to = idx + start_len[2 * static_cast<int64_t>(visit.row)];
  boxtree::walk(tree, trails[threadIdx.x / kWarp], min(warp_start + kWarp / 2, tree.n - 1) / boxtree::kGpuLeaf, visit);
}

__global__ void list_kernel(const int64_t* ends_of_lists, int64_t n, int32_t* start_len) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= n) return;
  const int64_t start = i == 0 ? 0 : ends_of_lists[i - 1];
  start_len[2 * i] = static_cast<int32_t>(start);
  start_len[2 * i + 1] = static_cast<int32_t>(ends_of_lists[i] - start);
}

// A bitonic network over the lanes of a warp.
__device__ int32_t sort_lanes(int32_t v, int lane) {
  for (int size = 2; size <= kWarp; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      const int32_t other = __shfl_xor_sync(kAllLanes, v, step);
      const bool low = (lane & step) == 0, up = (lane & size) == 0;
      v = (low == up) ? min(v, other) : max(v, other);
    }
  return v;
}

// A warp a list: runs of 32 sorted in registers, then runs merged in pairs, each element by its rank in the other run.
__global__ void __launch_bounds__(kThreads) sort_kernel(const int32_t* start_len, int64_t n, int32_t* idx,
                                                        int32_t* room) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / kWarp;
  if (row >= n) return;
  const int32_t start = start_len[2 * row], length = start_len[2 * row + 1];
  int32_t *from = idx + start, *to = room + start;
  for (int32_t base = 0; base < length; base += kWarp) {
    const int32_t v = sort_lanes(base + lane < length ? from[base + lane] : 0x7fffffff, lane);
    if (base + lane < length) from[base + lane] = v;
  }
  for (int64_t run = kWarp; run < length; run *= 2) {
    __syncwarp();
    for (int32_t i = lane; i < length; i += kWarp) {
      const int64_t mine = i / run, pair = mine / 2 * 2 * run;
      const int64_t other = (mine ^ 1) * run, other_end = min(other + run, int64_t{length});
      int64_t low = min(other, int64_t{length}), high = max(other_end, low);
      const int64_t other_start = low;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (from[middle] < from[i]) low = middle + 1;
        else high = middle;
      }
      to[pair + (i - mine * run) + (low - other_start)] = from[i];
    }
    int32_t* swap = from;
    from = to;
    to = swap;
  }
  __syncwarp();
  if (from != idx + start)
    for (int32_t i = lane; i < length; i += kWarp) to[i] = from[i];
}

__global__ void batch_kernel(const int32_t* batch, int64_t n, const int32_t* ends, int clouds, int32_t* bad) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < n && batch[i] != boxtree::cloud_of(ends, clouds, i)) atomicMin(bad, static_cast<int32_t>(i));
}

std::tuple<at::Tensor, at::Tensor> ballquery_batch_p(const at::Tensor& coords, const at::Tensor& batch_idxs,
                                                     const at::Tensor& batch_offsets, double radius) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(coords, "coords"));
  const std::vector<int64_t> offsets = check_ball_query(coords, batch_idxs, batch_offsets, radius);
  const int64_t n = coords.size(0);
  at::Tensor start_len = at::empty({n, 2}, batch_idxs.options());
  if (n == 0) return {at::empty({0}, batch_idxs.options()), start_len};
  const auto stream = at::cuda::getCurrentCUDAStream();
  const int clouds = static_cast<int>(offsets.size() - 1);
  const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  const at::Tensor ends = boxtree::ends_on_device(offsets, coords);
  const auto* end = ends.const_data_ptr<int32_t>();

  const at::Tensor bad = at::full({1}, 0x7fffffff, batch_idxs.options());
  batch_kernel<<<blocks, kThreads, 0, stream>>>(batch_idxs.const_data_ptr<int32_t>(), n, end, clouds,
                                                bad.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const int32_t bad_row = bad.item<int32_t>();
  check_batch(bad_row < n ? bad_row : -1);

  boxtree::Tree tree = boxtree::build_tree(coords, offsets, "coords");
  tree.codes.reset();
  const float r = static_cast<float>(radius), radius2 = r * r;
  const at::Tensor counts = at::empty({n}, coords.options().dtype(at::kLong));
  count_kernel<<<blocks, kThreads, 0, stream>>>(tree.view, end, clouds, radius2, counts.mutable_data_ptr<int64_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor ends_of_lists = at::cumsum(counts, 0);
  const int64_t total = ends_of_lists[n - 1].item<int64_t>();
  check_total(total);
  list_kernel<<<blocks, kThreads, 0, stream>>>(ends_of_lists.const_data_ptr<int64_t>(), n,
                                               start_len.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  at::Tensor idx = at::empty({total}, batch_idxs.options());
  fill_kernel<<<blocks, kThreads, 0, stream>>>(tree.view, end, clouds, radius2, start_len.const_data_ptr<int32_t>(),
                                               idx.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor room = at::empty({total}, batch_idxs.options());
  const int64_t warps_a_block = kThreads / kWarp;
  sort_kernel<<<static_cast<unsigned>((n + warps_a_block - 1) / warps_a_block), kThreads, 0, stream>>>(
      start_len.const_data_ptr<int32_t>(), n, idx.mutable_data_ptr<int32_t>(), room.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {idx, start_len};
}

}  // namespace

TORCH_LIBRARY_IMPL(pointgroup_ops, CUDA, m) { m.impl("ballquery_batch_p", ballquery_batch_p); }

}  // namespace pointgroup_ops
