// bfs_cluster on a GPU: connected components by hooking the higher of two roots under the lower (as in ECL-CC). A
// component's root ends as its lowest point whatever the order of the threads, so the result is the same every time.
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "../checks.h"

namespace pointgroup_ops {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;

__device__ int32_t root(int32_t* parent, int32_t i) {
  // Other threads move parents meanwhile, always to lower points of the same component: read them afresh.
  volatile int32_t* seen = parent;
  int32_t up = seen[i];
  while (up != i) {
    const int32_t next = seen[up];
    if (next < up) atomicMin(parent + i, next);  // halves the path
    i = up;
    up = next;
  }
  return i;
}

__device__ void join(int32_t* parent, int32_t a, int32_t b) {
  a = root(parent, a);
  b = root(parent, b);
  while (a != b) {
    if (a < b) {
      const int32_t swap = a;
      a = b;
      b = swap;
    }
    const int32_t before = atomicCAS(parent + a, a, b);  // a is the higher one
    if (before == a) return;
    a = root(parent, before);
    b = root(parent, b);
  }
}

// bad[0]: first row whose list is outside, bad[1]: first place whose neighbour is no row.
__global__ void check_kernel(const int32_t* start_len, int64_t n, const int32_t* neighbours, int64_t places,
                             unsigned long long* bad) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / kWarp;
  if (row >= n) return;
  const int64_t start = start_len[2 * row], length = start_len[2 * row + 1];
  if (start < 0 || length < 0 || start + length > places) {
    if (lane == 0) atomicMin(bad, static_cast<unsigned long long>(row));
    return;
  }
  for (int64_t s = start + lane; s < start + length; s += kWarp)
    if (neighbours[s] < 0 || neighbours[s] >= n) atomicMin(bad + 1, static_cast<unsigned long long>(s));
}

__global__ void join_kernel(const int32_t* label, const int32_t* start_len, int64_t n, const int32_t* neighbours,
                            int32_t* parent) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / kWarp;
  if (row >= n) return;
  const int64_t start = start_len[2 * row], length = start_len[2 * row + 1];
  for (int64_t s = start + lane; s < start + length; s += kWarp) {
    const int32_t other = neighbours[s];
    if (other != row && label[other] == label[row]) join(parent, static_cast<int32_t>(row), other);
  }
}

__global__ void size_kernel(int32_t* parent, int64_t n, int32_t* roots, int32_t* size) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= n) return;
  roots[i] = root(parent, static_cast<int32_t>(i));
  atomicAdd(size + roots[i], 1);
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

std::tuple<at::Tensor, at::Tensor> bfs_cluster(const at::Tensor& semantic_label, const at::Tensor& ball_query_idxs,
                                               const at::Tensor& start_len, int64_t threshold) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(semantic_label, "semantic_label"));
  check_cluster(semantic_label, ball_query_idxs, start_len);
  const int64_t n = semantic_label.size(0), places = ball_query_idxs.size(0);
  const auto ints = semantic_label.options();
  if (n == 0) return {at::empty({0, 2}, ints), at::zeros({1}, ints)};
  const auto stream = at::cuda::getCurrentCUDAStream();
  const auto* list = start_len.const_data_ptr<int32_t>();
  const auto* neighbours = ball_query_idxs.const_data_ptr<int32_t>();

  const at::Tensor bad = at::full({2}, -1, ints.dtype(at::kLong));
  check_kernel<<<blocks_for(n * kWarp), kThreads, 0, stream>>>(
      list, n, neighbours, places, reinterpret_cast<unsigned long long*>(bad.mutable_data_ptr<int64_t>()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor bad_on_host = bad.to(at::kCPU);
  check_lists(bad_on_host.const_data_ptr<int64_t>()[0]);
  check_neighbours(bad_on_host.const_data_ptr<int64_t>()[1]);

  const at::Tensor parent = at::arange(n, ints), roots = at::empty({n}, ints), size = at::zeros({n}, ints);
  join_kernel<<<blocks_for(n * kWarp), kThreads, 0, stream>>>(semantic_label.const_data_ptr<int32_t>(), list, n,
                                                              neighbours, parent.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  size_kernel<<<blocks_for(n), kThreads, 0, stream>>>(parent.mutable_data_ptr<int32_t>(), n,
                                                      roots.mutable_data_ptr<int32_t>(),
                                                      size.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  // Roots of clusters large enough, in order; their numbers; the points of them, by cluster, then by index.
  const at::Tensor kept = size.ge(std::max<int64_t>(threshold, 1));
  const at::Tensor number = at::cumsum(kept, 0).sub(1);
  const at::Tensor members = kept.index_select(0, roots).nonzero().flatten();
  const auto [cluster, order] = at::sort(number.index_select(0, roots.index_select(0, members)), /*stable=*/true,
                                         /*dim=*/0, /*descending=*/false);
  const at::Tensor cluster_idxs = at::stack({cluster, members.index_select(0, order)}, 1).to(at::kInt);
  const at::Tensor sizes = size.masked_select(kept);
  at::Tensor cluster_offsets = at::zeros({sizes.size(0) + 1}, ints);
  cluster_offsets.slice(0, 1).copy_(at::cumsum(sizes, 0));
  return {cluster_idxs, cluster_offsets};
}

}  // namespace

TORCH_LIBRARY_IMPL(pointgroup_ops, CUDA, m) { m.impl("bfs_cluster", bfs_cluster); }

}  // namespace pointgroup_ops
