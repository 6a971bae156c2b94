// farthest_point_sampling on the CPU: a tree of boxes in which every node knows its farthest point, so that a new sample
// opens only the boxes that it can change, and the next sample is read off the root (QuickFPS, arXiv 2208.08795, with a
// tree over its buckets).
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>

#include "../checks.h"
#include "box_tree.h"

namespace pointops {
namespace {

using boxtree::kFan;
using boxtree::kLeaf;
using boxtree::Key;
using boxtree::kLanes;
using boxtree::Lanes;

// Largest distance first, then the lowest index; 0 is less than any point.
Key far_key(float d2, int32_t index) { return boxtree::pack(d2, std::numeric_limits<int32_t>::max() - index); }
int32_t far_index(Key key) { return std::numeric_limits<int32_t>::max() - boxtree::key_index(key); }

struct Far {
  Key best[kFan];
  float d2[kFan];
};

class Sampler {
 public:
  Sampler(const float* xyz, int64_t begin, int64_t end) : xyz_(xyz), tree_(xyz, begin, end) {
    near_.resize(tree_.leaves.size());
    for (size_t i = 0; i < near_.size(); ++i)
      for (int j = 0; j < kLeaf; ++j)
        near_[i][j] = tree_.leaves[i].index[j] == std::numeric_limits<int32_t>::max() ? -1.0f : FLT_MAX;
    for (const auto& level : tree_.levels) {
      far_.emplace_back(level.size());
      for (size_t i = 0; i < level.size(); ++i)
        for (int j = 0; j < kFan; ++j) {
          const bool nothing = level[i].first[j] == std::numeric_limits<int32_t>::max();
          far_.back()[i].d2[j] = nothing ? 0.0f : FLT_MAX;
          far_.back()[i].best[j] = nothing ? 0 : far_key(FLT_MAX, level[i].first[j]);
        }
    }
  }

  // Takes the point into the samples and returns the one farthest from all samples.
  int32_t add(int32_t index) {
    for (int a = 0; a < 3; ++a) q_[a] = xyz_[3 * static_cast<int64_t>(index) + a];
    return far_index(update(static_cast<int>(tree_.levels.size()) - 1, 0));
  }

 private:
  Key update(int level, int64_t node) {
    Far& far = far_[level][node];
    float d[kFan];
    boxtree::box_distances(tree_.levels[level][node], q_, d);
    unsigned open = 0;
    for (int j = 0; j < kFan; j += kLanes) open |= less(Lanes::load(d + j), Lanes::load(far.d2 + j)) << j;
    for (; open != 0; open &= open - 1) {
      const int j = __builtin_ctz(open);
      far.best[j] = level == 0 ? update_leaf(node * kFan + j) : update(level - 1, node * kFan + j);
      far.d2[j] = boxtree::key_d2(far.best[j]);
    }
    return *std::max_element(far.best, far.best + kFan);
  }

  Key update_leaf(int64_t i) {
    const boxtree::Leaf& leaf = tree_.leaves[i];
    std::array<float, kLeaf>& near = near_[i];
    float d[kLeaf];
    boxtree::leaf_distances(leaf, q_, d);
    Lanes most = Lanes::all(-1.0f);
    for (int j = 0; j < kLeaf; j += kLanes) {
      const Lanes least = smaller(Lanes::load(d + j), Lanes::load(near.data() + j));
      least.store(near.data() + j);
      most = larger(most, least);
    }
    float four[kLanes];
    most.store(four);
    const float largest = *std::max_element(four, four + kLanes);
    int32_t first = std::numeric_limits<int32_t>::max();
    unsigned equal = 0;
    for (int j = 0; j < kLeaf; j += kLanes)
      equal |= less_equal(Lanes::all(largest), Lanes::load(near.data() + j)) << j;
    for (; equal != 0; equal &= equal - 1) first = std::min(first, leaf.index[__builtin_ctz(equal)]);
    return far_key(largest, first);
  }

  const float* xyz_;
  boxtree::BoxTree tree_;
  std::vector<std::array<float, kLeaf>> near_;
  std::vector<std::vector<Far>> far_;
  float q_[3] = {0, 0, 0};
};

at::Tensor farthest_point_sampling(const at::Tensor& xyz, const at::Tensor& offset, const at::Tensor& new_offset) {
  const Clouds clouds = check_sampling(xyz, offset, new_offset);
  boxtree::check_finite_rows(xyz, "xyz");
  at::Tensor idx = at::empty({clouds.new_offset.back()}, xyz.options().dtype(at::kInt));
  const float* points = xyz.const_data_ptr<float>();
  int32_t* out = idx.mutable_data_ptr<int32_t>();
  at::parallel_for(0, clouds.count(), 1, [&](int64_t a, int64_t b) {
    for (int64_t c = a; c < b; ++c) {
      if (clouds.new_offset[c] == clouds.new_offset[c + 1]) continue;
      Sampler sampler(points, clouds.offset[c], clouds.offset[c + 1]);
      int32_t next = static_cast<int32_t>(clouds.offset[c]);
      for (int64_t i = clouds.new_offset[c]; i < clouds.new_offset[c + 1]; ++i) {
        out[i] = next;
        if (i + 1 < clouds.new_offset[c + 1]) next = sampler.add(next);
      }
    }
  });
  return idx;
}

}  // namespace

TORCH_LIBRARY_IMPL(pointops, CPU, m) { m.impl("farthest_point_sampling", farthest_point_sampling); }

}  // namespace pointops
