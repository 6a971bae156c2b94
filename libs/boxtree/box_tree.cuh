// A tree of boxes over a batch of clouds for exact search on a GPU, and the walk of a warp through it.
//
// Points lie in Morton order, cloud after cloud; leaves are 16 of them, nodes 32 boxes, so that each lane of a warp tests
// one. A warp walks for 32 neighbouring queries at once: a box is opened if any of them may want it. Distances are those
// of box_tree.h, compiled without fused multiply-add, so both devices find the same to the last bit.
#pragma once

#include <ATen/core/Tensor.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>
#include <vector>

namespace boxtree {

constexpr int kWarp = 32;
constexpr int kGpuLeaf = 16;
constexpr int kGpuLevels = 7;  // 16 * 32^6 points are more than int32 counts
constexpr unsigned kAllLanes = 0xffffffffu;

using Key = unsigned long long;
constexpr Key kNone = (static_cast<Key>(0x7f7fffffu) << 32) | 0x7fffffffu;

struct alignas(16) Box {
  float lo[3], hi[3];
  int32_t first, last;  // lowest and highest index inside
};

struct TreeView {
  const float4* points;  // x, y, z, the bits of the index
  const Box* boxes;      // all levels one after another, the leaves' first
  int32_t n, levels;
  int32_t start[kGpuLevels], count[kGpuLevels];
};

struct Tree {
  at::Tensor points, boxes, codes, frame;  // frame: what codes were made with, for the queries of another cloud
  TreeView view;
};

// Points of other clouds in the tree's order: row of each place, and the leaf where its search begins.
struct Queries {
  at::Tensor rows, leaves;
};

// Refuses points that are not finite, by `name`; offset holds cumulative counts with 0 in front.
Tree build_tree(const at::Tensor& xyz, const std::vector<int64_t>& offset, const char* name);
Queries order_queries(const Tree& tree, const at::Tensor& new_xyz, const std::vector<int64_t>& new_offset,
                      const char* name);
at::Tensor ends_on_device(const std::vector<int64_t>& offset, const at::Tensor& like);  // int32, without the 0

#ifdef __CUDACC__

__device__ inline Key pack(float d2, int32_t index) {
  return (static_cast<Key>(__float_as_uint(d2)) << 32) | static_cast<uint32_t>(index);
}
__device__ inline float key_d2(Key key) { return __uint_as_float(static_cast<uint32_t>(key >> 32)); }
__device__ inline int32_t key_index(Key key) { return static_cast<int32_t>(static_cast<uint32_t>(key)); }

__device__ inline uint32_t warp_max(uint32_t v) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kAllLanes, v);
#else
  for (int s = 16; s > 0; s /= 2) v = max(v, __shfl_xor_sync(kAllLanes, v, s));
  return v;
#endif
}
__device__ inline uint32_t warp_min(uint32_t v) { return ~warp_max(~v); }
__device__ inline Key warp_max(Key v) {
  const uint32_t high = static_cast<uint32_t>(v >> 32), top = warp_max(high);
  return (static_cast<Key>(top) << 32) | warp_max(high == top ? static_cast<uint32_t>(v) : 0u);
}
__device__ inline float warp_max(float v) {
  for (int s = 16; s > 0; s /= 2) v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, s));
  return v;
}
__device__ inline float warp_min(float v) { return -warp_max(-v); }

// The number of the cloud that a row is in: the first whose end is past it.
__device__ inline int cloud_of(const int32_t* ends, int clouds, int64_t row) {
  int low = 0, high = clouds - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ends[middle] > row) high = middle;
    else low = middle + 1;
  }
  return low;
}

__device__ inline float square_distance(float ax, float ay, float az, float bx, float by, float bz) {
  const float dx = ax - bx, dy = ay - by, dz = az - bz;
  return (dx * dx + dy * dy) + dz * dz;
}

// Between boxes; with lo == hi of one of them, from a point to a box.
__device__ inline float box_distance(const Box& b, const float lo[3], const float hi[3]) {
  float s[3];
  for (int a = 0; a < 3; ++a) {
    const float gap = fmaxf(fmaxf(b.lo[a] - hi[a], lo[a] - b.hi[a]), 0.0f);
    s[a] = gap * gap;
  }
  return (s[0] + s[1]) + s[2];
}

// What a warp keeps of the nodes it is in, one of these in shared memory for each warp.
struct Trail {
  float d2[kGpuLevels][kWarp];
};

// Shows `visit` of every lane all points that it may want. A lane's visit has the query q[3], the rows [begin, end) of its
// cloud, limit() - a box at (squared distance, lowest index) is opened if that key is below it, 0 for a lane without a
// query - and take(d2, index). All lanes of a warp call this together; `leaf` is where the search begins.
template <class Visit>
__device__ void walk(const TreeView& tree, Trail& trail, int leaf, Visit& visit) {
  const int lane = threadIdx.x % kWarp;
  const bool asks = visit.limit() != 0;
  float lo[3], hi[3];
  for (int a = 0; a < 3; ++a) {
    lo[a] = warp_min(asks ? visit.q[a] : FLT_MAX);
    hi[a] = warp_max(asks ? visit.q[a] : -FLT_MAX);
  }
  const int begin = static_cast<int>(warp_min(static_cast<uint32_t>(asks ? visit.begin : 0x7fffffff)));
  const int end = static_cast<int>(warp_max(static_cast<uint32_t>(asks ? visit.end : 0)));

  auto scan = [&](int at) {
    const int from = at * kGpuLeaf, to = min(from + kGpuLeaf, tree.n);
    for (int i = from; i < to; ++i) {
      const float4 p = tree.points[i];
      const int index = __float_as_int(p.w);
      const float d2 = square_distance(p.x, p.y, p.z, visit.q[0], visit.q[1], visit.q[2]);
      if (index >= visit.begin && index < visit.end) visit.take(d2, index);
    }
  };

  // First the leaf in the middle of the queries and its neighbours, so that limits are tight from the start.
  const int first_leaf = max(leaf - 1, 0), last_leaf = min(leaf + 1, tree.count[0] - 1);
  for (int at = first_leaf; at <= last_leaf; ++at) scan(at);
  Key limit = warp_max(visit.limit());

  unsigned open[kGpuLevels];
  int node[kGpuLevels];
  int level = tree.levels - 1;
  auto enter = [&](int group) {
    const int box = group * kWarp + lane;
    bool wanted = false;
    float d2 = 0.0f;
    if (box < tree.count[level]) {
      const Box b = tree.boxes[tree.start[level] + box];
      d2 = box_distance(b, lo, hi);
      wanted = b.first < end && b.last >= begin && pack(d2, b.first) < limit;
    }
    trail.d2[level][lane] = d2;
    node[level] = group;
    open[level] = __ballot_sync(kAllLanes, wanted);
  };
  enter(0);
  for (;;) {
    if (open[level] == 0) {
      if (++level == tree.levels) return;
      continue;
    }
    // The nearest of the children left, the one with the lowest number among equals.
    const bool mine = (open[level] >> lane) & 1u;
    const float d2 = trail.d2[level][lane];
    const uint32_t nearest = warp_min(mine ? __float_as_uint(d2) : 0xffffffffu);
    const int child = __ffs(__ballot_sync(kAllLanes, mine && __float_as_uint(d2) == nearest)) - 1;
    open[level] &= ~(1u << child);
    const int box = node[level] * kWarp + child;
    if (nearest > static_cast<uint32_t>(limit >> 32)) {  // then all others are too far as well
      open[level] = 0;
      continue;
    }
    if (level > 0) {
      --level;
      enter(box);
      continue;
    }
    if (box >= first_leaf && box <= last_leaf) continue;
    const Box b = tree.boxes[tree.start[0] + box];
    if (!__any_sync(kAllLanes, pack(box_distance(b, visit.q, visit.q), b.first) < visit.limit())) continue;
    scan(box);
    limit = warp_max(visit.limit());
  }
}

#endif  // __CUDACC__

}  // namespace boxtree
