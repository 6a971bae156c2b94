// Definitions of box_tree.cuh's host functions; included by one source of each library.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAException.h>

#include <cub/device/device_radix_sort.cuh>

#include "box_tree.cuh"
#include "check.h"

namespace boxtree {

namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

// Floats as unsigned integers of the same order.
__device__ uint32_t ordered(float f) {
  const uint32_t bits = __float_as_uint(f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float unordered(uint32_t u) { return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u); }

// frame: lowest x, y, z, then the complements of the highest, all ordered; then the first bad row. All by minimum.
__global__ void bound(const float* xyz, int64_t n, uint32_t* frame) {
  uint32_t low[7];
  for (auto& v : low) v = 0xffffffffu;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += int64_t{gridDim.x} * kThreads)
    for (int a = 0; a < 3; ++a) {
      const float v = xyz[3 * i + a];
      if (!(fabsf(v) <= kLargestCoordinate)) low[6] = min(low[6], static_cast<uint32_t>(i));
      low[a] = min(low[a], ordered(v));
      low[3 + a] = min(low[3 + a], ~ordered(v));
    }
  for (int k = 0; k < 7; ++k) {
    const uint32_t least = warp_min(low[k]);
    if (threadIdx.x % kWarp == 0) atomicMin(frame + k, least);
  }
}

__device__ uint64_t spread(uint64_t v) {  // 21 bits, two gaps after each
  v &= 0x1fffff;
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  return (v | v << 2) & 0x1249249249249249ull;
}

__global__ void encode(const float* xyz, int64_t n, const uint32_t* frame, const int32_t* ends, int clouds, int bits,
                       uint64_t* codes, int32_t* rows) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= n) return;
  float low[3], extent = 0.0f;
  for (int a = 0; a < 3; ++a) {
    low[a] = unordered(frame[a]);
    extent = fmaxf(extent, unordered(~frame[3 + a]) - low[a]);
  }
  const float cells = static_cast<float>((1 << bits) - 1), scale = extent > 0.0f ? cells / extent : 0.0f;
  uint64_t code = 0;
  for (int a = 0; a < 3; ++a) {
    const float cell = fminf(fmaxf((xyz[3 * i + a] - low[a]) * scale, 0.0f), cells);
    code |= spread(static_cast<uint64_t>(cell)) << a;
  }
  codes[i] = (static_cast<uint64_t>(cloud_of(ends, clouds, i)) << (3 * bits)) | code;
  rows[i] = static_cast<int32_t>(i);
}

__global__ void gather(const float* xyz, int64_t n, const int32_t* rows, float4* points) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= n) return;
  const float* p = xyz + 3 * static_cast<int64_t>(rows[i]);
  points[i] = make_float4(p[0], p[1], p[2], __int_as_float(rows[i]));
}

__device__ Box nothing() {
  Box b;
  for (int a = 0; a < 3; ++a) {
    b.lo[a] = FLT_MAX;
    b.hi[a] = -FLT_MAX;
  }
  b.first = 0x7fffffff;
  b.last = -1;
  return b;
}

__global__ void bound_leaves(const float4* points, int64_t n, int64_t leaves, Box* boxes) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= leaves) return;
  Box b = nothing();
  for (int64_t j = i * kGpuLeaf; j < min((i + 1) * kGpuLeaf, n); ++j) {
    const float4 p = points[j];
    const float v[3] = {p.x, p.y, p.z};
    for (int a = 0; a < 3; ++a) {
      b.lo[a] = fminf(b.lo[a], v[a]);
      b.hi[a] = fmaxf(b.hi[a], v[a]);
    }
    b.first = min(b.first, __float_as_int(p.w));
    b.last = max(b.last, __float_as_int(p.w));
  }
  boxes[i] = b;
}

__global__ void bound_nodes(const Box* below, int64_t n, Box* boxes, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= count) return;
  Box b = nothing();
  for (int64_t j = i * kWarp; j < min((i + 1) * kWarp, n); ++j) {
    for (int a = 0; a < 3; ++a) {
      b.lo[a] = fminf(b.lo[a], below[j].lo[a]);
      b.hi[a] = fmaxf(b.hi[a], below[j].hi[a]);
    }
    b.first = min(b.first, below[j].first);
    b.last = max(b.last, below[j].last);
  }
  boxes[i] = b;
}

__global__ void find_leaves(const uint64_t* codes, int64_t n, const uint64_t* wanted, int64_t m, int32_t* leaves) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= m) return;
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (codes[middle] < wanted[i]) low = middle + 1;
    else high = middle;
  }
  leaves[i] = static_cast<int32_t>(min(low, n - 1) / kGpuLeaf);
}

int bits_of_axis(size_t clouds) {
  int cloud_bits = 0;
  while ((size_t{1} << cloud_bits) < clouds) ++cloud_bits;
  return std::min(21, (63 - cloud_bits) / 3);
}

// Codes and rows in the order of the codes.
std::pair<at::Tensor, at::Tensor> sort_points(const at::Tensor& xyz, const std::vector<int64_t>& offset,
                                              const at::Tensor& frame) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  const int64_t n = xyz.size(0);
  const int clouds = static_cast<int>(offset.size() - 1), bits = bits_of_axis(clouds);
  const auto longs = xyz.options().dtype(at::kLong), ints = xyz.options().dtype(at::kInt);
  // Two of each, between which the sort goes to and fro: it then needs no others of its own.
  const at::Tensor codes[2] = {at::empty({n}, longs), at::empty({n}, longs)};
  const at::Tensor rows[2] = {at::empty({n}, ints), at::empty({n}, ints)};
  const auto code = [&](int i) { return reinterpret_cast<uint64_t*>(codes[i].mutable_data_ptr<int64_t>()); };
  const at::Tensor ends = ends_on_device(offset, xyz);
  encode<<<blocks_for(n), kThreads, 0, stream>>>(xyz.const_data_ptr<float>(), n,
                                                 reinterpret_cast<const uint32_t*>(frame.const_data_ptr<int32_t>()),
                                                 ends.const_data_ptr<int32_t>(), clouds, bits, code(0),
                                                 rows[0].mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  cub::DoubleBuffer<uint64_t> keys(code(0), code(1));
  cub::DoubleBuffer<int32_t> values(rows[0].mutable_data_ptr<int32_t>(), rows[1].mutable_data_ptr<int32_t>());
  const int count = static_cast<int>(n);
  size_t bytes = 0;
  C10_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, values, count, 0, 64, stream));
  const at::Tensor room = at::empty({static_cast<int64_t>(bytes)}, xyz.options().dtype(at::kByte));
  C10_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(room.mutable_data_ptr(), bytes, keys, values, count, 0, 64, stream));
  return {codes[keys.selector], rows[values.selector]};
}

at::Tensor checked_frame(const at::Tensor& xyz, const char* name) {
  at::Tensor frame = at::full({7}, -1, xyz.options().dtype(at::kInt));
  const int64_t n = xyz.size(0);
  if (n == 0) return frame;
  bound<<<std::min(blocks_for(n), 1024u), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      xyz.const_data_ptr<float>(), n, reinterpret_cast<uint32_t*>(frame.mutable_data_ptr<int32_t>()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  check_finite(frame[6].item<int32_t>(), name);
  return frame;
}

}  // namespace

at::Tensor ends_on_device(const std::vector<int64_t>& offset, const at::Tensor& like) {
  const std::vector<int32_t> ends(offset.begin() + 1, offset.end());
  return at::tensor(ends, at::TensorOptions().dtype(at::kInt)).to(like.device());
}

Tree build_tree(const at::Tensor& xyz, const std::vector<int64_t>& offset, const char* name) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  const int64_t n = xyz.size(0);
  Tree tree;
  tree.frame = checked_frame(xyz, name);
  tree.view = TreeView{};
  if (n == 0) return tree;
  at::Tensor rows;
  std::tie(tree.codes, rows) = sort_points(xyz, offset, tree.frame);
  tree.points = at::empty({n, 4}, xyz.options());
  auto* points = reinterpret_cast<float4*>(tree.points.mutable_data_ptr<float>());
  gather<<<blocks_for(n), kThreads, 0, stream>>>(xyz.const_data_ptr<float>(), n, rows.const_data_ptr<int32_t>(),
                                                 points);
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  TreeView& view = tree.view;
  view.n = static_cast<int32_t>(n);
  int64_t total = 0, count = (n + kGpuLeaf - 1) / kGpuLeaf;
  for (;; count = (count + kWarp - 1) / kWarp) {
    view.start[view.levels] = static_cast<int32_t>(total);
    view.count[view.levels++] = static_cast<int32_t>(count);
    total += count;
    if (count <= kWarp) break;
  }
  tree.boxes = at::empty({total, 8}, xyz.options());
  auto* boxes = reinterpret_cast<Box*>(tree.boxes.mutable_data_ptr<float>());
  view.points = points;
  view.boxes = boxes;
  bound_leaves<<<blocks_for(view.count[0]), kThreads, 0, stream>>>(points, n, view.count[0], boxes);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  for (int level = 1; level < view.levels; ++level) {
    bound_nodes<<<blocks_for(view.count[level]), kThreads, 0, stream>>>(
        boxes + view.start[level - 1], view.count[level - 1], boxes + view.start[level], view.count[level]);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return tree;
}

Queries order_queries(const Tree& tree, const at::Tensor& new_xyz, const std::vector<int64_t>& new_offset,
                      const char* name) {
  checked_frame(new_xyz, name);
  const int64_t m = new_xyz.size(0);
  Queries queries;
  queries.leaves = at::empty({m}, new_xyz.options().dtype(at::kInt));
  if (m == 0 || tree.view.n == 0) return queries;
  at::Tensor codes;
  std::tie(codes, queries.rows) = sort_points(new_xyz, new_offset, tree.frame);
  find_leaves<<<blocks_for(m), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      reinterpret_cast<const uint64_t*>(tree.codes.const_data_ptr<int64_t>()), tree.view.n,
      reinterpret_cast<const uint64_t*>(codes.const_data_ptr<int64_t>()), m,
      queries.leaves.mutable_data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return queries;
}

}  // namespace boxtree
