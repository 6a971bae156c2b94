// farthest_point_sampling on a GPU: one block a cloud, points in buckets along the Morton order. A bucket knows its box
// and its farthest point; a new sample touches only buckets that it is nearer to than their farthest point is to the
// samples so far (QuickFPS, arXiv 2208.08795).
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "box_tree.cuh"

namespace pointops {
namespace {

using boxtree::kAllLanes;
using boxtree::Key;
using boxtree::kWarp;

constexpr int kThreads = 1024;
constexpr int kOwned = 4;  // buckets whose boxes a thread keeps in registers
constexpr int kBuckets = kThreads * kOwned;

// Largest distance first, then the lowest index; 0 is less than any point.
__device__ Key far_key(float d2, int32_t index) { return boxtree::pack(d2, 0x7fffffff - index); }

// points: x, y, z and the squared distance to the nearest sample; rows: their indices.
__global__ void __launch_bounds__(kThreads) sample_kernel(const float* xyz, float4* points, const int32_t* rows,
                                                          const int32_t* ends, const int32_t* new_ends, int32_t* out) {
  __shared__ Key far[kBuckets];
  __shared__ uint16_t touched[kBuckets];
  __shared__ int touched_count;
  __shared__ Key best_of_warp[kThreads / kWarp];

  const int cloud = blockIdx.x, thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int32_t begin = cloud == 0 ? 0 : ends[cloud - 1], n = ends[cloud] - begin;
  const int32_t from = cloud == 0 ? 0 : new_ends[cloud - 1], to = new_ends[cloud];
  if (from >= to) return;
  points += begin;
  rows += begin;
  const int size = ((n + kBuckets - 1) / kBuckets + kWarp - 1) / kWarp * kWarp, buckets = (n + size - 1) / size;

  boxtree::Box box[kOwned];
  for (int k = 0; k < kOwned; ++k) {
    for (int a = 0; a < 3; ++a) {
      box[k].lo[a] = FLT_MAX;
      box[k].hi[a] = -FLT_MAX;
    }
    const int bucket = thread + k * kThreads;
    far[bucket] = 0;
    if (bucket >= buckets) continue;
    for (int64_t i = int64_t{bucket} * size; i < min(int64_t{bucket + 1} * size, int64_t{n}); ++i) {
      const float4 p = points[i];
      const float v[3] = {p.x, p.y, p.z};
      for (int a = 0; a < 3; ++a) {
        box[k].lo[a] = fminf(box[k].lo[a], v[a]);
        box[k].hi[a] = fmaxf(box[k].hi[a], v[a]);
      }
      points[i].w = FLT_MAX;
    }
    far[bucket] = far_key(FLT_MAX, 0);
  }
  if (thread == 0) touched_count = 0;
  __syncthreads();

  int32_t now = begin;
  for (int32_t sample = from; sample < to; ++sample) {
    if (thread == 0) out[sample] = now;
    if (sample + 1 == to) break;
    const float q[3] = {xyz[3 * int64_t{now}], xyz[3 * int64_t{now} + 1], xyz[3 * int64_t{now} + 2]};
#pragma unroll
    for (int k = 0; k < kOwned; ++k) {
      const int bucket = thread + k * kThreads;
      if (bucket < buckets && boxtree::box_distance(box[k], q, q) < boxtree::key_d2(far[bucket]))
        touched[atomicAdd(&touched_count, 1)] = static_cast<uint16_t>(bucket);
    }
    __syncthreads();
    const int count = touched_count;
    for (int t = warp; t < count; t += kThreads / kWarp) {
      const int bucket = touched[t];
      const int64_t last = min(int64_t{bucket + 1} * size, int64_t{n});
      Key best = 0;
      for (int64_t i = int64_t{bucket} * size + lane; i < last; i += kWarp) {
        float4 p = points[i];
        const float d2 = boxtree::square_distance(p.x, p.y, p.z, q[0], q[1], q[2]);
        if (d2 < p.w) points[i].w = p.w = d2;
        best = max(best, far_key(p.w, rows[i]));
      }
      best = boxtree::warp_max(best);
      if (lane == 0) far[bucket] = best;
    }
    __syncthreads();
    if (thread == 0) touched_count = 0;
    Key best = 0;
#pragma unroll
    for (int k = 0; k < kOwned; ++k) best = max(best, far[thread + k * kThreads]);
    best = boxtree::warp_max(best);
    if (lane == 0) best_of_warp[warp] = best;
    __syncthreads();
    best = boxtree::warp_max(best_of_warp[lane]);
    now = 0x7fffffff - boxtree::key_index(best);
  }
}

__global__ void split_rows(const float4* points, int64_t n, int32_t* rows) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < n) rows[i] = __float_as_int(points[i].w);
}

at::Tensor farthest_point_sampling(const at::Tensor& xyz, const at::Tensor& offset, const at::Tensor& new_offset) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(xyz, "xyz"));
  const Clouds clouds = check_sampling(xyz, offset, new_offset);
  const int64_t n = xyz.size(0);
  at::Tensor idx = at::empty({clouds.new_offset.back()}, xyz.options().dtype(at::kInt));
  boxtree::Tree tree = boxtree::build_tree(xyz, clouds.offset, "xyz");
  if (idx.numel() == 0) return idx;
  tree.codes.reset();
  tree.boxes.reset();
  const auto stream = at::cuda::getCurrentCUDAStream();
  const at::Tensor rows = at::empty({n}, idx.options());
  auto* points = reinterpret_cast<float4*>(tree.points.mutable_data_ptr<float>());
  split_rows<<<(n + kThreads - 1) / kThreads, kThreads, 0, stream>>>(points, n, rows.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor ends = boxtree::ends_on_device(clouds.offset, xyz);
  const at::Tensor new_ends = boxtree::ends_on_device(clouds.new_offset, xyz);
  sample_kernel<<<static_cast<unsigned>(clouds.count()), kThreads, 0, stream>>>(
      xyz.const_data_ptr<float>(), points, rows.const_data_ptr<int32_t>(), ends.const_data_ptr<int32_t>(),
      new_ends.const_data_ptr<int32_t>(), idx.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return idx;
}

}  // namespace

TORCH_LIBRARY_IMPL(pointops, CUDA, m) { m.impl("farthest_point_sampling", farthest_point_sampling); }

}  // namespace pointops
