// A tree of boxes over one cloud for exact search on the CPU: points in k-d order, leaves of 16 side by side, 8 children
// a node so that one pass of vector instructions tests them all.
//
// Every distance is ((dx*dx)+(dy*dy))+(dz*dz) in float32 without fused multiply-add, and boxes are the true bounds of
// their points. Rounding is monotonic, so the distance to a box, computed the same way, is never above that of a point
// in it: pruning is exact, to the last bit. Equal distances are told apart by the lower index.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "lanes.h"

namespace boxtree {

constexpr int kFan = 8;
constexpr int kLeaf = 16;
constexpr int kMaxLevels = 12;

// Squared distance above, index below: sorts by distance, then by index.
using Key = uint64_t;

inline Key pack(float d2, int32_t index) {
  uint32_t bits;
  std::memcpy(&bits, &d2, sizeof bits);
  return (static_cast<Key>(bits) << 32) | static_cast<uint32_t>(index);
}

inline float key_d2(Key key) {
  const uint32_t bits = static_cast<uint32_t>(key >> 32);
  float d2;
  std::memcpy(&d2, &bits, sizeof d2);
  return d2;
}

inline int32_t key_index(Key key) { return static_cast<int32_t>(static_cast<uint32_t>(key)); }

struct Point {
  float x, y, z;
  int32_t index;
};

struct alignas(32) Boxes {
  float lo[3][kFan], hi[3][kFan];
  int32_t first[kFan];  // lowest index inside
};

struct alignas(64) Leaf {
  float x[kLeaf], y[kLeaf], z[kLeaf];  // places past the end hold infinity
  int32_t index[kLeaf];
};

inline int64_t first_bad_row(const float* xyz, int64_t n) {
  return at::parallel_reduce(
      0, n, 65536, n,
      [&](int64_t begin, int64_t end, int64_t found) {
        for (int64_t i = begin; i < end && i < found; ++i)
          for (int a = 0; a < 3; ++a)
            if (!(std::abs(xyz[3 * i + a]) <= kLargestCoordinate)) found = std::min(found, i);
        return found;
      },
      [](int64_t a, int64_t b) { return std::min(a, b); });
}

inline void check_finite_rows(const at::Tensor& xyz, const char* name) {
  const int64_t row = first_bad_row(xyz.const_data_ptr<float>(), xyz.size(0));
  check_finite(row < xyz.size(0) ? row : -1, name);
}

inline float axis_of(const Point& p, int axis) { return axis == 0 ? p.x : axis == 1 ? p.y : p.z; }

inline int widest_axis(const Point* p, int64_t n) {
  float lo[3] = {FLT_MAX, FLT_MAX, FLT_MAX}, hi[3] = {-FLT_MAX, -FLT_MAX, -FLT_MAX};
  for (int64_t i = 0; i < n; ++i)
    for (int a = 0; a < 3; ++a) {
      const float v = axis_of(p[i], a);
      lo[a] = v < lo[a] ? v : lo[a];
      hi[a] = v > hi[a] ? v : hi[a];
    }
  const float w[3] = {hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]};
  return w[0] >= w[1] && w[0] >= w[2] ? 0 : w[1] >= w[2] ? 1 : 2;
}

template <int Axis>
void halve(Point* p, int64_t half, int64_t n) {
  std::nth_element(p, p + half, p + n, [](const Point& a, const Point& b) {
    const float u = axis_of(a, Axis), v = axis_of(b, Axis);
    return u < v || (u == v && a.index < b.index);  // by index: copies of one point end up in order of index
  });
}

// Orders n points for `capacity` leaves (a power of two) down to groups of `stop` leaves.
inline void split(Point* p, int64_t n, int64_t capacity, int64_t stop) {
  while (capacity > stop) {
    capacity /= 2;
    const int64_t half = capacity * kLeaf;
    if (n <= half) continue;
    const int axis = widest_axis(p, n);
    if (axis == 0) halve<0>(p, half, n);
    else if (axis == 1) halve<1>(p, half, n);
    else halve<2>(p, half, n);
    split(p, half, capacity, stop);
    p += half;
    n -= half;
  }
}

// The rows [begin, end) of xyz in k-d order; index is the row.
inline std::vector<Point> kd_order(const float* xyz, int64_t begin, int64_t end) {
  const int64_t n = end - begin;
  std::vector<Point> points(n);
  for (int64_t i = 0; i < n; ++i) {
    const float* p = xyz + 3 * (begin + i);
    points[i] = {p[0], p[1], p[2], static_cast<int32_t>(begin + i)};
  }
  int64_t capacity = 1;
  while (capacity * kLeaf < n) capacity *= 2;
  // The top levels one by one, each over its halves in parallel; below that every part by itself.
  int64_t part = capacity;
  while (part > 1 && capacity / part < 64) {
    at::parallel_for(0, capacity / part, 1, [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; ++i) {
        const int64_t from = i * part * kLeaf;
        if (from < n) split(points.data() + from, std::min(part * kLeaf, n - from), part, part / 2);
      }
    });
    part /= 2;
  }
  at::parallel_for(0, capacity / part, 1, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) {
      const int64_t from = i * part * kLeaf;
      if (from < n) split(points.data() + from, std::min(part * kLeaf, n - from), part, 1);
    }
  });
  return points;
}

struct BoxTree {
  std::vector<Leaf> leaves;
  std::vector<std::vector<Boxes>> levels;  // levels[0] bounds the leaves, the last level is one group

  BoxTree(const float* xyz, int64_t begin, int64_t end) {
    if (begin == end) return;
    const std::vector<Point> points = kd_order(xyz, begin, end);
    const int64_t n = end - begin, count = (n + kLeaf - 1) / kLeaf;
    leaves.resize(count);
    levels.emplace_back(empty_groups(count));
    at::parallel_for(0, count, 1024, [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; ++i) fill_leaf(points.data() + i * kLeaf, std::min<int64_t>(kLeaf, n - i * kLeaf), i);
    });
    while (levels.back().size() > 1) {
      const std::vector<Boxes>& below = levels.back();
      std::vector<Boxes> above = empty_groups(below.size());
      for (size_t i = 0; i < below.size(); ++i)
        for (int j = 0; j < kFan; ++j) widen(above[i / kFan], i % kFan, below[i], j);
      levels.push_back(std::move(above));
    }
  }

  bool empty() const { return leaves.empty(); }

 private:
  static std::vector<Boxes> empty_groups(int64_t boxes) {
    Boxes none;
    for (int j = 0; j < kFan; ++j) {
      for (int a = 0; a < 3; ++a) {
        none.lo[a][j] = std::numeric_limits<float>::infinity();
        none.hi[a][j] = -std::numeric_limits<float>::infinity();
      }
      none.first[j] = std::numeric_limits<int32_t>::max();
    }
    return std::vector<Boxes>((boxes + kFan - 1) / kFan, none);
  }

  void fill_leaf(const Point* p, int64_t n, int64_t i) {
    Leaf& leaf = leaves[i];
    Boxes& group = levels[0][i / kFan];
    const int j = i % kFan;
    for (int k = 0; k < kLeaf; ++k) {
      if (k >= n) {
        leaf.x[k] = leaf.y[k] = leaf.z[k] = std::numeric_limits<float>::infinity();
        leaf.index[k] = std::numeric_limits<int32_t>::max();
        continue;
      }
      leaf.x[k] = p[k].x;
      leaf.y[k] = p[k].y;
      leaf.z[k] = p[k].z;
      leaf.index[k] = p[k].index;
      for (int a = 0; a < 3; ++a) {
        group.lo[a][j] = std::min(group.lo[a][j], axis_of(p[k], a));
        group.hi[a][j] = std::max(group.hi[a][j], axis_of(p[k], a));
      }
      group.first[j] = std::min(group.first[j], p[k].index);
    }
  }

  static void widen(Boxes& to, int t, const Boxes& from, int f) {
    for (int a = 0; a < 3; ++a) {
      to.lo[a][t] = std::min(to.lo[a][t], from.lo[a][f]);
      to.hi[a][t] = std::max(to.hi[a][t], from.hi[a][f]);
    }
    to.first[t] = std::min(to.first[t], from.first[f]);
  }
};

inline void box_distances(const Boxes& g, const float q[3], float d[kFan]) {
  for (int j = 0; j < kFan; j += kLanes) {
    Lanes square[3];
    for (int a = 0; a < 3; ++a) {
      const Lanes at = Lanes::all(q[a]);
      const Lanes outside = larger(Lanes::load(g.lo[a] + j) - at, at - Lanes::load(g.hi[a] + j));
      const Lanes gap = larger(outside, Lanes::all(0.0f));
      square[a] = gap * gap;
    }
    ((square[0] + square[1]) + square[2]).store(d + j);
  }
}

inline void leaf_distances(const Leaf& leaf, const float q[3], float d[kLeaf]) {
  const Lanes x = Lanes::all(q[0]), y = Lanes::all(q[1]), z = Lanes::all(q[2]);
  for (int j = 0; j < kLeaf; j += kLanes) {
    const Lanes dx = Lanes::load(leaf.x + j) - x, dy = Lanes::load(leaf.y + j) - y, dz = Lanes::load(leaf.z + j) - z;
    ((dx * dx + dy * dy) + dz * dz).store(d + j);
  }
}

// One bit for each of the distances that is not above the bound.
template <int N>
unsigned within(const float (&d)[N], float bound) {
  unsigned bits = 0;
  for (int j = 0; j < N; j += kLanes) bits |= less_equal(Lanes::load(d + j), Lanes::all(bound)) << j;
  return bits;
}

// Offers to `collect` every point that it may want, near boxes first: wants(d2, first) says whether a box at squared
// distance d2 with that lowest index is worth opening, bound() the largest squared distance wanted, take(d2, index) gets
// the points.
template <class Collect>
void search(const BoxTree& tree, const float q[3], Collect& collect) {
  if (tree.empty()) return;
  struct Entry {
    float d2;
    int32_t first, level, node;
  };
  Entry stack[kMaxLevels * kFan];
  int top = 0;
  Entry now{0, 0, static_cast<int32_t>(tree.levels.size()), 0};
  for (;;) {
    if (now.level == 0) {
      const Leaf& leaf = tree.leaves[now.node];
      float d[kLeaf];
      leaf_distances(leaf, q, d);
      for (unsigned bits = within(d, collect.bound()); bits != 0; bits &= bits - 1) {
        const int j = __builtin_ctz(bits);
        collect.take(d[j], leaf.index[j]);
      }
    } else {
      const Boxes& group = tree.levels[now.level - 1][now.node];
      float d[kFan];
      box_distances(group, q, d);
      const int base = top;
      for (unsigned bits = within(d, collect.bound()); bits != 0; bits &= bits - 1) {
        const int j = __builtin_ctz(bits);
        int at = top++;
        for (; at > base && pack(stack[at - 1].d2, stack[at - 1].first) < pack(d[j], group.first[j]); --at)
          stack[at] = stack[at - 1];
        stack[at] = {d[j], group.first[j], now.level - 1, now.node * kFan + j};
      }
    }
    do {
      if (top == 0) return;
      now = stack[--top];
    } while (!collect.wants(now.d2, now.first));
  }
}

// The k smallest keys, in order; places not filled hold kNone.
constexpr Key kNone = (static_cast<Key>(0x7f7fffffu) << 32) | 0x7fffffffu;

struct Nearest {
  Key* keys;
  int64_t k;
  float limit = FLT_MAX;

  Nearest(Key* room, int64_t count) : keys(room), k(count) { std::fill(keys, keys + k, kNone); }
  float bound() const { return limit; }
  bool wants(float d2, int32_t first) const { return pack(d2, first) < keys[k - 1]; }
  void take(float d2, int32_t index) {
    const Key key = pack(d2, index);
    if (key >= keys[k - 1]) return;
    int64_t at = k - 1;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
    limit = key_d2(keys[k - 1]);
  }
};

}  // namespace boxtree
