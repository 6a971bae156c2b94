// bfs_cluster on the CPU: connected components by union-find, each named after its lowest point.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "../checks.h"

namespace pointgroup_ops {
namespace {

class Components {
 public:
  explicit Components(int64_t n) : parent_(n) {
    for (int64_t i = 0; i < n; ++i) parent_[i] = static_cast<int32_t>(i);
  }
  int32_t root(int32_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  void join(int32_t a, int32_t b) {
    a = root(a);
    b = root(b);
    if (a < b) parent_[b] = a;
    else parent_[a] = b;
  }

 private:
  std::vector<int32_t> parent_;
};

std::tuple<at::Tensor, at::Tensor> bfs_cluster(const at::Tensor& semantic_label, const at::Tensor& ball_query_idxs,
                                               const at::Tensor& start_len, int64_t threshold) {
  check_cluster(semantic_label, ball_query_idxs, start_len);
  const int64_t n = semantic_label.size(0), places = ball_query_idxs.size(0);
  const int32_t* label = semantic_label.const_data_ptr<int32_t>();
  const int32_t* neighbour = ball_query_idxs.const_data_ptr<int32_t>();
  const int32_t* list = start_len.const_data_ptr<int32_t>();

  for (int64_t i = 0; i < n; ++i) {
    const int64_t start = list[2 * i], len = list[2 * i + 1];
    check_lists(start >= 0 && len >= 0 && start + len <= places ? -1 : i);
    for (int64_t s = start; s < start + len; ++s) check_neighbours(neighbour[s] >= 0 && neighbour[s] < n ? -1 : s);
  }
  Components components(n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t s = list[2 * i]; s < int64_t{list[2 * i]} + list[2 * i + 1]; ++s)
      if (label[neighbour[s]] == label[i]) components.join(static_cast<int32_t>(i), neighbour[s]);

  std::vector<int32_t> size(n, 0), cluster(n, -1);
  for (int64_t i = 0; i < n; ++i) ++size[components.root(static_cast<int32_t>(i))];
  std::vector<int64_t> ends{0};
  for (int64_t i = 0; i < n; ++i)
    if (size[i] > 0 && size[i] >= threshold) {
      cluster[i] = static_cast<int32_t>(ends.size() - 1);
      ends.push_back(ends.back() + size[i]);
    }
  at::Tensor cluster_idxs = at::empty({ends.back(), 2}, semantic_label.options());
  at::Tensor cluster_offsets = at::empty({static_cast<int64_t>(ends.size())}, semantic_label.options());
  int32_t* out = cluster_idxs.mutable_data_ptr<int32_t>();
  std::copy(ends.begin(), ends.end(), cluster_offsets.mutable_data_ptr<int32_t>());
  std::vector<int64_t> next = std::move(ends);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t c = cluster[components.root(static_cast<int32_t>(i))];
    if (c < 0) continue;
    const int64_t at = next[c]++;
    out[2 * at] = c;
    out[2 * at + 1] = static_cast<int32_t>(i);
  }
  return {cluster_idxs, cluster_offsets};
}

}  // namespace

TORCH_LIBRARY_IMPL(pointgroup_ops, CPU, m) { m.impl("bfs_cluster", bfs_cluster); }

}  // namespace pointgroup_ops
