// grouping, interpolation, subtraction, aggregation and the two attention steps on the CPU. The index -1 (no neighbour)
// is left out everywhere; sums run in the order of their inputs, so results do not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"

namespace pointops {
namespace {

constexpr int64_t kGrain = 256;

const int32_t* checked(const at::Tensor& idx, const char* name, int64_t rows, int32_t lowest = -1) {
  const int32_t* p = idx.const_data_ptr<int32_t>();
  const int64_t n = idx.numel();
  const int64_t bad = at::parallel_reduce(
      0, n, 65536, n,
      [&](int64_t begin, int64_t end, int64_t found) {
        for (int64_t i = begin; i < end && i < found; ++i)
          if (p[i] < lowest || p[i] >= rows) found = i;
        return found;
      },
      [](int64_t a, int64_t b) { return std::min(a, b); });
  boxtree::check_index(bad < n ? bad : -1, name, rows, lowest);
  return p;
}

at::Tensor grouping(const at::Tensor& idx, const at::Tensor& feat, const std::optional<at::Tensor>& xyz,
                    const std::optional<at::Tensor>& new_xyz) {
  check_grouping(idx, feat, xyz, new_xyz);
  const int32_t* index = checked(idx, "idx", feat.size(0));
  const int64_t m = idx.size(0), k = idx.size(1), c = feat.size(1), lead = xyz ? 3 : 0;
  at::Tensor out = at::empty({m, k, lead + c}, feat.options());
  const float* f = feat.const_data_ptr<float>();
  const float* from = xyz ? xyz->const_data_ptr<float>() : nullptr;
  const float* centre = new_xyz ? new_xyz->const_data_ptr<float>() : nullptr;
  float* o = out.mutable_data_ptr<float>();
  at::parallel_for(0, m * k, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = o + i * (lead + c);
      const int64_t j = index[i];
      if (j < 0) {
        std::fill(to, to + lead + c, 0.0f);
        continue;
      }
      for (int64_t a = 0; a < lead; ++a) to[a] = from[3 * j + a] - centre[3 * (i / k) + a];
      std::copy(f + j * c, f + j * c + c, to + lead);
    }
  });
  return out;
}

at::Tensor interpolation(const at::Tensor& feat, const at::Tensor& idx, const at::Tensor& dist) {
  check_interpolation(feat, idx, dist);
  const int32_t* index = checked(idx, "idx", feat.size(0));
  const int64_t m = idx.size(0), k = idx.size(1), c = feat.size(1);
  at::Tensor out = at::zeros({m, c}, feat.options());
  const float* f = feat.const_data_ptr<float>();
  const float* d = dist.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  at::parallel_for(0, m, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float norm = 0.0f;
      for (int64_t s = i * k; s < i * k + k; ++s)
        if (index[s] >= 0) norm += 1.0f / (d[s] + 1e-8f);
      for (int64_t s = i * k; s < i * k + k; ++s) {
        if (index[s] < 0) continue;
        const float w = (1.0f / (d[s] + 1e-8f)) / norm;
        for (int64_t a = 0; a < c; ++a) o[i * c + a] += f[index[s] * c + a] * w;
      }
    }
  });
  return out;
}

at::Tensor subtraction(const at::Tensor& input1, const at::Tensor& input2, const at::Tensor& idx) {
  check_subtraction(input1, input2, idx);
  const int32_t* index = checked(idx, "idx", input2.size(0));
  const int64_t n = idx.size(0), k = idx.size(1), c = input1.size(1);
  at::Tensor out = at::zeros({n, k, c}, input1.options());
  const float* p = input1.const_data_ptr<float>();
  const float* q = input2.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  at::parallel_for(0, n * k, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (index[i] >= 0)
        for (int64_t a = 0; a < c; ++a) o[i * c + a] = p[i / k * c + a] - q[index[i] * c + a];
  });
  return out;
}

at::Tensor aggregation(const at::Tensor& input, const at::Tensor& position, const at::Tensor& weight,
                       const at::Tensor& idx) {
  check_aggregation(input, position, weight, idx);
  const int32_t* index = checked(idx, "idx", input.size(0));
  const int64_t n = idx.size(0), k = idx.size(1), c = input.size(1), w_c = weight.size(2);
  at::Tensor out = at::zeros({n, c}, input.options());
  const float* f = input.const_data_ptr<float>();
  const float* p = position.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  at::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t s = i * k; s < i * k + k; ++s) {
        if (index[s] < 0) continue;
        for (int64_t a = 0; a < c; ++a) o[i * c + a] += (f[index[s] * c + a] + p[s * c + a]) * w[s * w_c + a % w_c];
      }
  });
  return out;
}

at::Tensor attention_relation_step(const at::Tensor& query, const at::Tensor& key, const at::Tensor& weight,
                                   const at::Tensor& index_target, const at::Tensor& index_refer) {
  check_relation(query, key, weight, index_target, index_refer);
  const int32_t* target = checked(index_target, "index_target", query.size(0), 0);
  const int32_t* refer = checked(index_refer, "index_refer", key.size(0), 0);
  const int64_t m = index_target.size(0), g = query.size(1), c = query.size(2);
  at::Tensor out = at::empty({m, g}, query.options());
  const float* q = query.const_data_ptr<float>();
  const float* r = key.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  at::parallel_for(0, m * g, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* a = q + (target[i / g] * g + i % g) * c;
      const float* b = r + (refer[i / g] * g + i % g) * c;
      float sum = 0.0f;
      for (int64_t j = 0; j < c; ++j) sum += a[j] * b[j] * w[j];
      o[i] = sum;
    }
  });
  return out;
}

at::Tensor attention_fusion_step(const at::Tensor& weight, const at::Tensor& value, const at::Tensor& index_target,
                                 const at::Tensor& index_refer) {
  check_fusion(weight, value, index_target, index_refer);
  const int64_t n = value.size(0), g = value.size(1), c = value.size(2), m = index_target.size(0);
  const int32_t* target = checked(index_target, "index_target", n, 0);
  const int32_t* refer = checked(index_refer, "index_refer", n, 0);
  // The pairs of one target one after another, in their order: then targets can be summed side by side.
  std::vector<int64_t> start(n + 1, 0), pairs(m);
  for (int64_t i = 0; i < m; ++i) ++start[target[i] + 1];
  for (int64_t i = 0; i < n; ++i) start[i + 1] += start[i];
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  for (int64_t i = 0; i < m; ++i) pairs[next[target[i]]++] = i;

  at::Tensor out = at::zeros({n, g, c}, value.options());
  const float* w = weight.const_data_ptr<float>();
  const float* v = value.const_data_ptr<float>();
  float* o = out.mutable_data_ptr<float>();
  at::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t s = start[i]; s < start[i + 1]; ++s)
        for (int64_t j = 0; j < g; ++j)
          for (int64_t a = 0; a < c; ++a)
            o[(i * g + j) * c + a] += w[pairs[s] * g + j] * v[(refer[pairs[s]] * g + j) * c + a];
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(pointops, CPU, m) {
  m.impl("grouping", grouping);
  m.impl("interpolation", interpolation);
  m.impl("subtraction", subtraction);
  m.impl("aggregation", aggregation);
  m.impl("attention_relation_step", attention_relation_step);
  m.impl("attention_fusion_step", attention_fusion_step);
}

}  // namespace pointops
