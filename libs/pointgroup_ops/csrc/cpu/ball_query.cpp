// ballquery_batch_p on the CPU: all points nearer than a radius, by exact search in a tree of boxes.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

#include "../checks.h"
#include "box_tree.h"

namespace pointgroup_ops {
namespace {

struct Count {
  float radius2;
  int64_t count = 0;
  float bound() const { return radius2; }
  bool wants(float d2, int32_t) const { return d2 < radius2; }
  void take(float d2, int32_t) { count += d2 < radius2; }
};

struct Fill {
  float radius2;
  int32_t* to;
  float bound() const { return radius2; }
  bool wants(float d2, int32_t) const { return d2 < radius2; }
  void take(float d2, int32_t index) {
    if (d2 < radius2) *to++ = index;
  }
};

template <class F>
void for_each_point(const boxtree::BoxTree& tree, const F& f) {
  at::parallel_for(0, static_cast<int64_t>(tree.leaves.size()), 8, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) {
      const boxtree::Leaf& leaf = tree.leaves[i];
      for (int j = 0; j < boxtree::kLeaf && leaf.index[j] != std::numeric_limits<int32_t>::max(); ++j) {
        const float q[3] = {leaf.x[j], leaf.y[j], leaf.z[j]};
        f(q, leaf.index[j]);
      }
    }
  });
}

std::tuple<at::Tensor, at::Tensor> ballquery_batch_p(const at::Tensor& coords, const at::Tensor& batch_idxs,
                                                     const at::Tensor& batch_offsets, double radius) {
  const std::vector<int64_t> offsets = check_ball_query(coords, batch_idxs, batch_offsets, radius);
  const int64_t n = coords.size(0);
  const int32_t* batch = batch_idxs.const_data_ptr<int32_t>();
  for (size_t c = 0; c + 1 < offsets.size(); ++c)
    for (int64_t i = offsets[c]; i < offsets[c + 1]; ++i) check_batch(batch[i] == static_cast<int64_t>(c) ? -1 : i);
  boxtree::check_finite_rows(coords, "coords");

  std::vector<boxtree::BoxTree> trees;
  for (size_t c = 0; c + 1 < offsets.size(); ++c)
    trees.emplace_back(coords.const_data_ptr<float>(), offsets[c], offsets[c + 1]);
  const float r = static_cast<float>(radius), radius2 = r * r;

  at::Tensor start_len = at::empty({n, 2}, batch_idxs.options());
  int32_t* list = start_len.mutable_data_ptr<int32_t>();
  for (const auto& tree : trees)
    for_each_point(tree, [&](const float q[3], int64_t row) {
      Count count{radius2};
      boxtree::search(tree, q, count);
      list[2 * row + 1] = static_cast<int32_t>(count.count);
    });
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    list[2 * i] = static_cast<int32_t>(std::min<int64_t>(total, std::numeric_limits<int32_t>::max()));
    total += list[2 * i + 1];
  }
  check_total(total);

  at::Tensor idx = at::empty({total}, batch_idxs.options());
  int32_t* out = idx.mutable_data_ptr<int32_t>();
  for (const auto& tree : trees)
    for_each_point(tree, [&](const float q[3], int64_t row) {
      Fill fill{radius2, out + list[2 * row]};
      boxtree::search(tree, q, fill);
      std::sort(out + list[2 * row], fill.to);
    });
  return {idx, start_len};
}

}  // namespace

TORCH_LIBRARY_IMPL(pointgroup_ops, CPU, m) { m.impl("ballquery_batch_p", ballquery_batch_p); }

}  // namespace pointgroup_ops
