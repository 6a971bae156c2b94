// grouping, interpolation, subtraction, aggregation and the two attention steps on a GPU, a thread for each number of the
// result. The index -1 (no neighbour) is left out everywhere; sums run in the order of their inputs.
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"

namespace pointops {
namespace {

constexpr int kThreads = 256;

template <class F>
__global__ void each_kernel(int64_t n, F f) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += int64_t{gridDim.x} * kThreads) f(i);
}

// Calls f on the device for 0 to n - 1.
template <class F>
void each(int64_t n, F f) {
  if (n == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((n + kThreads - 1) / kThreads, 1 << 20));
  each_kernel<<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(n, f);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

const int32_t* checked(const at::Tensor& idx, const char* name, int64_t rows, int32_t lowest = -1) {
  const int32_t* p = idx.const_data_ptr<int32_t>();
  const at::Tensor bad = at::full({1}, -1, idx.options().dtype(at::kLong));
  auto* first = reinterpret_cast<unsigned long long*>(bad.mutable_data_ptr<int64_t>());
  each(idx.numel(), [=] __device__(int64_t i) {
    if (p[i] < lowest || p[i] >= rows) atomicMin(first, static_cast<unsigned long long>(i));
  });
  boxtree::check_index(bad.item<int64_t>(), name, rows, lowest);
  return p;
}

at::Tensor grouping(const at::Tensor& idx, const at::Tensor& feat, const std::optional<at::Tensor>& xyz,
                    const std::optional<at::Tensor>& new_xyz) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(feat, "feat"));
  check_grouping(idx, feat, xyz, new_xyz);
  const int32_t* index = checked(idx, "idx", feat.size(0));
  const int64_t m = idx.size(0), k = idx.size(1), c = feat.size(1), lead = xyz ? 3 : 0, width = lead + c;
  at::Tensor out = at::empty({m, k, width}, feat.options());
  const float* f = feat.const_data_ptr<float>();
  const float* from = xyz ? xyz->const_data_ptr<float>() : nullptr;
  const float* centre = new_xyz ? new_xyz->const_data_ptr<float>() : nullptr;
  float* o = out.mutable_data_ptr<float>();
  each(out.numel(), [=] __device__(int64_t i) {
    const int64_t place = i / width, a = i % width, j = index[place];
    if (j < 0) o[i] = 0.0f;
    else if (a < lead) o[i] = from[3 * j + a] - centre[3 * (place / k) + a];
    else o[i] = f[j * c + a - lead];
  });
  return out;
}

at::Tensor interpolation(const at::Tensor& feat, const at::Tensor& idx, const at::Tensor& dist) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(feat, "feat"));
  check_interpolation(feat, idx, dist);
  const int32_t* index = checked(idx, "idx", feat.size(0));
  const int64_t m = idx.size(0), k = idx.size(1), c = feat.size(1);
  at::Tensor out = at::empty({m, c}, feat.options());
  const float* f = feat.const_data_ptr<float>();
  const float* d = dist.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  each(m * c, [=] __device__(int64_t i) {
    const int64_t row = i / c, a = i % c;
    float norm = 0.0f, sum = 0.0f;
    for (int64_t s = row * k; s < row * k + k; ++s)
      if (index[s] >= 0) norm += 1.0f / (d[s] + 1e-8f);
    for (int64_t s = row * k; s < row * k + k; ++s)
      if (index[s] >= 0) sum += f[index[s] * c + a] * ((1.0f / (d[s] + 1e-8f)) / norm);
    o[i] = sum;
  });
  return out;
}

at::Tensor subtraction(const at::Tensor& input1, const at::Tensor& input2, const at::Tensor& idx) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(input1, "input1"));
  check_subtraction(input1, input2, idx);
  const int32_t* index = checked(idx, "idx", input2.size(0));
  const int64_t n = idx.size(0), k = idx.size(1), c = input1.size(1);
  at::Tensor out = at::empty({n, k, c}, input1.options());
  const float* p = input1.const_data_ptr<float>();
  const float* q = input2.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  each(n * k * c, [=] __device__(int64_t i) {
    const int64_t place = i / c, a = i % c, j = index[place];
    o[i] = j < 0 ? 0.0f : p[place / k * c + a] - q[j * c + a];
  });
  return out;
}

at::Tensor aggregation(const at::Tensor& input, const at::Tensor& position, const at::Tensor& weight,
                       const at::Tensor& idx) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(input, "input"));
  check_aggregation(input, position, weight, idx);
  const int32_t* index = checked(idx, "idx", input.size(0));
  const int64_t n = idx.size(0), k = idx.size(1), c = input.size(1), w_c = weight.size(2);
  at::Tensor out = at::empty({n, c}, input.options());
  const float* f = input.const_data_ptr<float>();
  const float* p = position.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  each(n * c, [=] __device__(int64_t i) {
    const int64_t row = i / c, a = i % c;
    float sum = 0.0f;
    for (int64_t s = row * k; s < row * k + k; ++s)
      if (index[s] >= 0) sum += (f[index[s] * c + a] + p[s * c + a]) * w[s * w_c + a % w_c];
    o[i] = sum;
  });
  return out;
}

at::Tensor attention_relation_step(const at::Tensor& query, const at::Tensor& key, const at::Tensor& weight,
                                   const at::Tensor& index_target, const at::Tensor& index_refer) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(query, "query"));
  check_relation(query, key, weight, index_target, index_refer);
  const int32_t* target = checked(index_target, "index_target", query.size(0), 0);
  const int32_t* refer = checked(index_refer, "index_refer", key.size(0), 0);
  const int64_t m = index_target.size(0), g = query.size(1), c = query.size(2);
  at::Tensor out = at::empty({m, g}, query.options());
  const float* q = query.const_data_ptr<float>();
  const float* r = key.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  each(m * g, [=] __device__(int64_t i) {
    const float* a = q + (target[i / g] * g + i % g) * c;
    const float* b = r + (refer[i / g] * g + i % g) * c;
    float sum = 0.0f;
    for (int64_t j = 0; j < c; ++j) sum += a[j] * b[j] * w[j];
    o[i] = sum;
  });
  return out;
}

at::Tensor attention_fusion_step(const at::Tensor& weight, const at::Tensor& value, const at::Tensor& index_target,
                                 const at::Tensor& index_refer) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(value, "value"));
  check_fusion(weight, value, index_target, index_refer);
  const int64_t n = value.size(0), g = value.size(1), c = value.size(2);
  checked(index_target, "index_target", n, 0);
  const int32_t* refer = checked(index_refer, "index_refer", n, 0);
  // The pairs of one target one after another, in their order: no atomic additions, the same sum every time.
  const auto [sorted, pairs] = at::sort(index_target, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor starts = at::searchsorted(sorted, at::arange(n + 1, sorted.options()));
  const int64_t* start = starts.const_data_ptr<int64_t>();
  const int64_t* pair = pairs.const_data_ptr<int64_t>();
  at::Tensor out = at::empty({n, g, c}, value.options());
  const float* w = weight.const_data_ptr<float>();
  const float* v = value.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  each(n * g * c, [=] __device__(int64_t i) {
    const int64_t row = i / (g * c), within = i % (g * c);
    float sum = 0.0f;
    for (int64_t s = start[row]; s < start[row + 1]; ++s)
      sum += w[pair[s] * g + within / c] * v[refer[pair[s]] * g * c + within];
    o[i] = sum;
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pointops, CUDA, m) {
  m.impl("grouping", grouping);
  m.impl("interpolation", interpolation);
  m.impl("subtraction", subtraction);
  m.impl("aggregation", aggregation);
  m.impl("attention_relation_step", attention_relation_step);
  m.impl("attention_fusion_step", attention_fusion_step);
}

}  // namespace pointops
