// knn_query, ball_query and random_ball_query on the CPU: exact search in a tree of boxes, one cloud after another.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "box_tree.h"

namespace pointops {
namespace {

using boxtree::Key;

constexpr float kNowhere = 1e5f;  // Pointcept's distance of a place that no neighbour fills
constexpr float kAlwaysNear = 1e-5f;  // squared; Pointcept counts such points whatever the radii

struct Rows {
  int32_t* idx;
  float* dist;
  int64_t nsample;

  void put(int64_t row, int64_t place, int32_t index, float d2) const {
    idx[row * nsample + place] = index;
    dist[row * nsample + place] = std::sqrt(d2);
  }
  void fill(int64_t row, int64_t place) const {
    for (; place < nsample; ++place) {
      idx[row * nsample + place] = -1;
      dist[row * nsample + place] = kNowhere;
    }
  }
};

// Calls answer(tree, query, row) for every row of new_xyz, in an order that keeps neighbours together.
template <class Make>
void for_each_query(const Clouds& clouds, const at::Tensor& xyz, const at::Tensor& new_xyz, const Make& make_answer) {
  boxtree::check_finite_rows(xyz, "xyz");
  boxtree::check_finite_rows(new_xyz, "new_xyz");
  for (int64_t c = 0; c < clouds.count(); ++c) {
    const int64_t begin = clouds.new_offset[c], end = clouds.new_offset[c + 1];
    if (begin == end) continue;
    const boxtree::BoxTree tree(xyz.const_data_ptr<float>(), clouds.offset[c], clouds.offset[c + 1]);
    const bool self = xyz.const_data_ptr() == new_xyz.const_data_ptr() && clouds.offset[c] == begin &&
                      clouds.offset[c + 1] == end;
    if (self) {
      at::parallel_for(0, static_cast<int64_t>(tree.leaves.size()), 8, [&](int64_t a, int64_t b) {
        auto answer = make_answer();
        for (int64_t i = a; i < b; ++i)
          for (int j = 0; j < boxtree::kLeaf && tree.leaves[i].index[j] != std::numeric_limits<int32_t>::max(); ++j) {
            const boxtree::Leaf& leaf = tree.leaves[i];
            const float q[3] = {leaf.x[j], leaf.y[j], leaf.z[j]};
            answer(tree, q, leaf.index[j]);
          }
      });
    } else {
      const auto queries = boxtree::kd_order(new_xyz.const_data_ptr<float>(), begin, end);
      at::parallel_for(0, end - begin, 64, [&](int64_t a, int64_t b) {
        auto answer = make_answer();
        for (int64_t i = a; i < b; ++i) {
          const float q[3] = {queries[i].x, queries[i].y, queries[i].z};
          answer(tree, q, queries[i].index);
        }
      });
    }
  }
}

std::tuple<at::Tensor, at::Tensor> results(const at::Tensor& new_xyz, int64_t nsample) {
  return {at::empty({new_xyz.size(0), nsample}, new_xyz.options().dtype(at::kInt)),
          at::empty({new_xyz.size(0), nsample}, new_xyz.options())};
}

std::tuple<at::Tensor, at::Tensor> knn_query(int64_t nsample, const at::Tensor& xyz, const at::Tensor& offset,
                                             const at::Tensor& new_xyz, const at::Tensor& new_offset) {
  const Clouds clouds = check_query(nsample, xyz, offset, new_xyz, new_offset);
  auto [idx, dist] = results(new_xyz, nsample);
  const Rows rows{idx.mutable_data_ptr<int32_t>(), dist.mutable_data_ptr<float>(), nsample};
  for_each_query(clouds, xyz, new_xyz, [&] {
    return [&rows, keys = std::vector<Key>(rows.nsample)](const boxtree::BoxTree& tree, const float q[3],
                                                          int64_t row) mutable {
      boxtree::Nearest nearest(keys.data(), rows.nsample);
      boxtree::search(tree, q, nearest);
      int64_t found = 0;
      for (; found < rows.nsample && keys[found] != boxtree::kNone; ++found)
        rows.put(row, found, boxtree::key_index(keys[found]), boxtree::key_d2(keys[found]));
      rows.fill(row, found);
    };
  });
  return {idx, dist};
}

struct InBall {
  float min2, max2;
  std::vector<Key> found;

  float bound() const { return std::max(max2, kAlwaysNear); }
  bool wants(float d2, int32_t) const { return d2 <= bound(); }
  void take(float d2, int32_t index) {
    if (d2 <= kAlwaysNear || (d2 >= min2 && d2 < max2)) found.push_back(boxtree::pack(d2, index));
  }
};

InBall ball(double max_radius, double min_radius) {
  const float max_r = static_cast<float>(max_radius), min_r = static_cast<float>(min_radius);
  return {min_r * min_r, max_r * max_r, {}};
}

std::tuple<at::Tensor, at::Tensor> ball_query(int64_t nsample, double max_radius, double min_radius,
                                              const at::Tensor& xyz, const at::Tensor& offset,
                                              const at::Tensor& new_xyz, const at::Tensor& new_offset) {
  boxtree::check_radii(max_radius, min_radius);
  const Clouds clouds = check_query(nsample, xyz, offset, new_xyz, new_offset);
  auto [idx, dist] = results(new_xyz, nsample);
  const Rows rows{idx.mutable_data_ptr<int32_t>(), dist.mutable_data_ptr<float>(), nsample};
  for_each_query(clouds, xyz, new_xyz, [&] {
    return [&rows, near = ball(max_radius, min_radius)](const boxtree::BoxTree& tree, const float q[3],
                                                        int64_t row) mutable {
      near.found.clear();
      boxtree::search(tree, q, near);
      std::sort(near.found.begin(), near.found.end());
      const int64_t count = near.found.size();
      const int64_t kept = std::min(count, rows.nsample);
      // More than fit: every (count / nsample)-th from the nearest outwards.
      const float step = count > rows.nsample ? static_cast<float>(count) / static_cast<float>(rows.nsample) : 1.0f;
      for (int64_t i = 0; i < kept; ++i) {
        const Key key = near.found[std::min(count - 1, static_cast<int64_t>(step * static_cast<float>(i)))];
        rows.put(row, i, boxtree::key_index(key), boxtree::key_d2(key));
      }
      rows.fill(row, kept);
    };
  });
  return {idx, dist};
}

// Each point's place in the order in which its cloud is visited.
std::vector<int32_t> places(const at::Tensor& order, const std::vector<int64_t>& offset) {
  const int32_t* visit = order.const_data_ptr<int32_t>();
  std::vector<int32_t> place(order.numel(), -1);
  for (size_t c = 1; c < offset.size(); ++c)
    for (int64_t i = offset[c - 1]; i < offset[c]; ++i) {
      const bool fits = visit[i] >= offset[c - 1] && visit[i] < offset[c] && place[visit[i]] < 0;
      check_order_place(fits ? order.numel() : i, order.numel());
      place[visit[i]] = static_cast<int32_t>(i);
    }
  return place;
}

std::tuple<at::Tensor, at::Tensor> random_ball_query(int64_t nsample, double max_radius, double min_radius,
                                                     const at::Tensor& order, const at::Tensor& xyz,
                                                     const at::Tensor& offset, const at::Tensor& new_xyz,
                                                     const at::Tensor& new_offset) {
  boxtree::check_radii(max_radius, min_radius);
  const Clouds clouds = check_query(nsample, xyz, offset, new_xyz, new_offset);
  check_order(order, xyz);
  const std::vector<int32_t> place = places(order, clouds.offset);
  const int32_t* visit = order.const_data_ptr<int32_t>();
  auto [idx, dist] = results(new_xyz, nsample);
  const Rows rows{idx.mutable_data_ptr<int32_t>(), dist.mutable_data_ptr<float>(), nsample};
  for_each_query(clouds, xyz, new_xyz, [&] {
    return [&rows, &place, visit, near = ball(max_radius, min_radius), first = std::vector<std::pair<int32_t, float>>()](
               const boxtree::BoxTree& tree, const float q[3], int64_t row) mutable {
      near.found.clear();
      boxtree::search(tree, q, near);
      first.clear();
      for (const Key key : near.found) first.emplace_back(place[boxtree::key_index(key)], boxtree::key_d2(key));
      const int64_t kept = std::min<int64_t>(first.size(), rows.nsample);
      std::partial_sort(first.begin(), first.begin() + kept, first.end());
      for (int64_t i = 0; i < kept; ++i) rows.put(row, i, visit[first[i].first], first[i].second);
      rows.fill(row, kept);
    };
  });
  return {idx, dist};
}

}  // namespace

TORCH_LIBRARY_IMPL(pointops, CPU, m) {
  m.impl("knn_query", knn_query);
  m.impl("ball_query", ball_query);
  m.impl("random_ball_query", random_ball_query);
}

}  // namespace pointops
