// knn_query, ball_query and random_ball_query on a GPU: exact search in a tree of boxes, a warp for 32 queries.
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "box_tree.cuh"

namespace pointops {
namespace {

using boxtree::Key;
using boxtree::kNone;
using boxtree::kWarp;

constexpr int kThreads = 128;
constexpr float kNowhere = 1e5f;      // Pointcept's distance of a place that no neighbour fills
constexpr float kAlwaysNear = 1e-5f;  // squared; Pointcept counts such points whatever the radii

struct Task {
  boxtree::TreeView tree;
  const float* new_xyz;
  const int32_t *rows, *leaves;  // null where the queries are the tree's own points
  const int32_t *ends, *new_ends;
  int32_t clouds, queries;
  int32_t nsample;
  int32_t* idx;
  float* dist;
  float min2, max2;      // ball queries
  const int32_t* place;  // random ball query: of each point in the visiting order
  const int32_t* order;
};

// The query of a lane; row -1 for none.
struct Query {
  float q[3] = {0, 0, 0};
  int32_t begin = 0, end = 0, row = -1;
};

__device__ Query query_of(const Task& task, int32_t at) {
  Query query;
  if (at >= task.queries) return query;
  if (task.rows != nullptr) {
    query.row = task.rows[at];
    for (int a = 0; a < 3; ++a) query.q[a] = task.new_xyz[3 * static_cast<int64_t>(query.row) + a];
  } else {
    const float4 p = task.tree.points[at];
    query.row = __float_as_int(p.w);
    query.q[0] = p.x;
    query.q[1] = p.y;
    query.q[2] = p.z;
  }
  const int cloud = boxtree::cloud_of(task.new_ends, task.clouds, query.row);
  query.begin = cloud == 0 ? 0 : task.ends[cloud - 1];
  query.end = task.ends[cloud];
  return query;
}

__device__ int first_leaf_of(const Task& task, int32_t warp_start) {
  const int32_t middle = min(warp_start + kWarp / 2, task.queries - 1);
  return task.leaves != nullptr ? task.leaves[middle] : middle / boxtree::kGpuLeaf;
}

__device__ void put(const Task& task, int32_t row, int place, int32_t index, float d2) {
  task.idx[static_cast<int64_t>(row) * task.nsample + place] = index;
  task.dist[static_cast<int64_t>(row) * task.nsample + place] = index < 0 ? kNowhere : sqrtf(d2);
}

// The K smallest keys above `after` and below `ceiling`, ascending.
template <int K>
struct Smallest : Query {
  Key keys[K];
  Key after, ceiling;

  __device__ void reset(Key from, Key to) {
    after = from;
    ceiling = to;
#pragma unroll
    for (int i = 0; i < K; ++i) keys[i] = kNone;
  }
  __device__ void insert(Key key) {
    if (key >= keys[K - 1] || key < after) return;
#pragma unroll
    for (int i = K - 1; i > 0; --i) keys[i] = key < keys[i - 1] ? keys[i - 1] : (key < keys[i] ? key : keys[i]);
    if (key < keys[0]) keys[0] = key;
  }
};

template <int K>
struct NearestVisit : Smallest<K> {
  __device__ Key limit() const { return this->row < 0 ? 0 : min(this->keys[K - 1], this->ceiling); }
  __device__ void take(float d2, int32_t index) { this->insert(boxtree::pack(d2, index)); }
};

// Only points of the ball; `ceiling` keeps the walk inside it.
template <int K>
struct BallVisit : NearestVisit<K> {
  float min2, max2;
  __device__ void take(float d2, int32_t index) {
    if (d2 <= kAlwaysNear || (d2 >= min2 && d2 < max2)) this->insert(boxtree::pack(d2, index));
  }
};

struct CountVisit : Query {
  float min2, max2;
  Key ceiling;
  int32_t count = 0;
  __device__ Key limit() const { return row < 0 ? 0 : ceiling; }
  __device__ void take(float d2, int32_t) { count += d2 <= kAlwaysNear || (d2 >= min2 && d2 < max2); }
};

// Keys are places in the visiting order with the squared distance below.
template <int K>
struct RandomVisit : Smallest<K> {
  float min2, max2;
  const int32_t* place;
  __device__ Key limit() const { return this->row < 0 ? 0 : this->ceiling; }
  __device__ void take(float d2, int32_t index) {
    if (d2 <= kAlwaysNear || (d2 >= min2 && d2 < max2))
      this->insert((static_cast<Key>(place[index]) << 32) | __float_as_uint(d2));
  }
};

__device__ Key ball_ceiling(const Task& task) {
  return (static_cast<Key>(__float_as_uint(fmaxf(task.max2, kAlwaysNear))) << 32) | 0xffffffffu;
}

template <int K, class Visit>
__device__ Visit begin_visit(const Task& task, int32_t at, Key ceiling) {
  Visit visit;
  static_cast<Query&>(visit) = query_of(task, at);
  visit.reset(0, ceiling);
  return visit;
}

// Rounds of K neighbours until nsample places are filled or no lane of the warp has more.
template <int K>
__global__ void __launch_bounds__(kThreads) knn_kernel(Task task) {
  __shared__ boxtree::Trail trails[kThreads / kWarp];
  const int32_t at = blockIdx.x * kThreads + threadIdx.x, warp_start = at - threadIdx.x % kWarp;
  if (warp_start >= task.queries) return;
  auto visit = begin_visit<K, NearestVisit<K>>(task, at, ~Key{0});
  const int32_t row = visit.row;
  for (int base = 0; base < task.nsample; base += K) {
    boxtree::walk(task.tree, trails[threadIdx.x / kWarp], first_leaf_of(task, warp_start), visit);
    if (row >= 0) {
#pragma unroll
      for (int i = 0; i < K; ++i)
        if (base + i < task.nsample)
          put(task, row, base + i, visit.keys[i] == kNone ? -1 : boxtree::key_index(visit.keys[i]),
              boxtree::key_d2(visit.keys[i]));
    }
    const Key next = visit.keys[K - 1] == kNone ? kNone : visit.keys[K - 1] + 1;
    visit.reset(next, ~Key{0});
    if (next == kNone) visit.row = -1;  // found all there are: no more walks, only empty places
  }
}

template <int K>
__global__ void __launch_bounds__(kThreads) ball_kernel(Task task) {
  __shared__ boxtree::Trail trails[kThreads / kWarp];
  const int32_t at = blockIdx.x * kThreads + threadIdx.x, warp_start = at - threadIdx.x % kWarp;
  if (warp_start >= task.queries) return;
  boxtree::Trail& trail = trails[threadIdx.x / kWarp];
  const int leaf = first_leaf_of(task, warp_start);

  CountVisit counted;
  static_cast<Query&>(counted) = query_of(task, at);
  counted.min2 = task.min2;
  counted.max2 = task.max2;
  counted.ceiling = ball_ceiling(task);
  boxtree::walk(task.tree, trail, leaf, counted);
  const int32_t row = counted.row, count = counted.count, kept = min(count, task.nsample);
  // More than fit: every (count / nsample)-th from the nearest outwards.
  const float step = count > task.nsample ? static_cast<float>(count) / static_cast<float>(task.nsample) : 1.0f;

  auto visit = begin_visit<K, BallVisit<K>>(task, at, ball_ceiling(task));
  visit.min2 = task.min2;
  visit.max2 = task.max2;
  int32_t placed = 0;
  for (int32_t base = 0; __any_sync(boxtree::kAllLanes, placed < kept); base += K) {
    if (placed >= kept) visit.row = -1;
    boxtree::walk(task.tree, trail, leaf, visit);
#pragma unroll
    for (int i = 0; i < K; ++i)
      while (placed < kept && min(count - 1, static_cast<int32_t>(step * static_cast<float>(placed))) == base + i)
        put(task, row, placed++, boxtree::key_index(visit.keys[i]), boxtree::key_d2(visit.keys[i]));
    visit.reset(visit.keys[K - 1] == kNone ? kNone : visit.keys[K - 1] + 1, ball_ceiling(task));
  }
  if (row < 0) return;
  for (; placed < task.nsample; ++placed) put(task, row, placed, -1, 0.0f);
}

template <int K>
__global__ void __launch_bounds__(kThreads) random_kernel(Task task) {
  __shared__ boxtree::Trail trails[kThreads / kWarp];
  const int32_t at = blockIdx.x * kThreads + threadIdx.x, warp_start = at - threadIdx.x % kWarp;
  if (warp_start >= task.queries) return;
  auto visit = begin_visit<K, RandomVisit<K>>(task, at, ball_ceiling(task));
  visit.min2 = task.min2;
  visit.max2 = task.max2;
  visit.place = task.place;
  const int32_t row = visit.row;
  for (int base = 0; base < task.nsample; base += K) {
    boxtree::walk(task.tree, trails[threadIdx.x / kWarp], first_leaf_of(task, warp_start), visit);
    if (row >= 0) {
#pragma unroll
      for (int i = 0; i < K; ++i)
        if (base + i < task.nsample)
          put(task, row, base + i, visit.keys[i] == kNone ? -1 : task.order[visit.keys[i] >> 32],
              __uint_as_float(static_cast<uint32_t>(visit.keys[i])));
    }
    const Key next = visit.keys[K - 1] == kNone ? kNone : visit.keys[K - 1] + 1;
    visit.reset(next, ball_ceiling(task));
    if (next == kNone) visit.row = -1;
  }
}

__global__ void place_kernel(const int32_t* order, int64_t n, const int32_t* ends, int clouds, int32_t* place,
                             int32_t* bad) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= n) return;
  const int cloud = boxtree::cloud_of(ends, clouds, i);
  const int32_t begin = cloud == 0 ? 0 : ends[cloud - 1], row = order[i];
  if (row < begin || row >= ends[cloud] || atomicExch(place + row, static_cast<int32_t>(i)) >= 0)
    atomicMin(bad, static_cast<int32_t>(i));
}

struct Prepared {
  Task task{};
  boxtree::Tree tree;
  boxtree::Queries queries;
  at::Tensor ends, new_ends, idx, dist;

  Prepared(int64_t nsample, const at::Tensor& xyz, const at::Tensor& new_xyz, const Clouds& clouds) {
    idx = at::full({new_xyz.size(0), nsample}, -1, new_xyz.options().dtype(at::kInt));
    dist = at::full({new_xyz.size(0), nsample}, kNowhere, new_xyz.options());
    tree = boxtree::build_tree(xyz, clouds.offset, "xyz");
    const bool self = xyz.const_data_ptr() == new_xyz.const_data_ptr() && clouds.offset == clouds.new_offset;
    if (!self) queries = boxtree::order_queries(tree, new_xyz, clouds.new_offset, "new_xyz");
    ends = boxtree::ends_on_device(clouds.offset, xyz);
    new_ends = boxtree::ends_on_device(clouds.new_offset, xyz);
    task.tree = tree.view;
    task.new_xyz = new_xyz.const_data_ptr<float>();
    if (queries.rows.defined()) {
      task.rows = queries.rows.const_data_ptr<int32_t>();
      task.leaves = queries.leaves.const_data_ptr<int32_t>();
    }
    task.ends = ends.const_data_ptr<int32_t>();
    task.new_ends = new_ends.const_data_ptr<int32_t>();
    task.clouds = static_cast<int32_t>(clouds.count());
    task.queries = static_cast<int32_t>(new_xyz.size(0));
    task.nsample = static_cast<int32_t>(nsample);
    task.idx = idx.mutable_data_ptr<int32_t>();
    task.dist = dist.mutable_data_ptr<float>();
  }

  void set_ball(double max_radius, double min_radius) {
    const float max_r = static_cast<float>(max_radius), min_r = static_cast<float>(min_radius);
    task.min2 = min_r * min_r;
    task.max2 = max_r * max_r;
  }

  std::tuple<at::Tensor, at::Tensor> run(void (*kernel)(Task)) const {
    if (task.queries > 0 && task.tree.n > 0) {
      const unsigned blocks = (static_cast<unsigned>(task.queries) + kThreads - 1) / kThreads;
      kernel<<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(task);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
    return {idx, dist};
  }
};

std::tuple<at::Tensor, at::Tensor> knn_query(int64_t nsample, const at::Tensor& xyz, const at::Tensor& offset,
                                             const at::Tensor& new_xyz, const at::Tensor& new_offset) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(xyz, "xyz"));
  const Clouds clouds = check_query(nsample, xyz, offset, new_xyz, new_offset);
  const Prepared prepared(nsample, xyz, new_xyz, clouds);
  return prepared.run(nsample <= 4 ? knn_kernel<4> : nsample <= 8 ? knn_kernel<8> : nsample <= 16 ? knn_kernel<16>
                                                                                                  : knn_kernel<32>);
}

std::tuple<at::Tensor, at::Tensor> ball_query(int64_t nsample, double max_radius, double min_radius,
                                              const at::Tensor& xyz, const at::Tensor& offset,
                                              const at::Tensor& new_xyz, const at::Tensor& new_offset) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(xyz, "xyz"));
  boxtree::check_radii(max_radius, min_radius);
  const Clouds clouds = check_query(nsample, xyz, offset, new_xyz, new_offset);
  Prepared prepared(nsample, xyz, new_xyz, clouds);
  prepared.set_ball(max_radius, min_radius);
  return prepared.run(ball_kernel<16>);
}

std::tuple<at::Tensor, at::Tensor> random_ball_query(int64_t nsample, double max_radius, double min_radius,
                                                     const at::Tensor& order, const at::Tensor& xyz,
                                                     const at::Tensor& offset, const at::Tensor& new_xyz,
                                                     const at::Tensor& new_offset) {
  const c10::cuda::CUDAGuard guard(boxtree::gpu_of(xyz, "xyz"));
  boxtree::check_radii(max_radius, min_radius);
  const Clouds clouds = check_query(nsample, xyz, offset, new_xyz, new_offset);
  check_order(order, xyz);
  Prepared prepared(nsample, xyz, new_xyz, clouds);
  prepared.set_ball(max_radius, min_radius);

  const int64_t n = xyz.size(0);
  const at::Tensor place = at::full({n}, -1, order.options()), bad = at::full({1}, 0x7fffffff, order.options());
  if (n > 0) {
    place_kernel<<<(n + kThreads - 1) / kThreads, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
        order.const_data_ptr<int32_t>(), n, prepared.task.ends, prepared.task.clouds, place.mutable_data_ptr<int32_t>(),
        bad.mutable_data_ptr<int32_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    check_order_place(bad.item<int32_t>(), n);
  }
  prepared.task.place = place.const_data_ptr<int32_t>();
  prepared.task.order = order.const_data_ptr<int32_t>();
  return prepared.run(random_kernel<16>);
}

}  // namespace

TORCH_LIBRARY_IMPL(pointops, CUDA, m) {
  m.impl("knn_query", knn_query);
  m.impl("ball_query", ball_query);
  m.impl("random_ball_query", random_ball_query);
}

}  // namespace pointops
