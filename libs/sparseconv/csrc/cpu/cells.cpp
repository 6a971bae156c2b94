// Keys of cells, and their order along the curve.
#include "cells.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

namespace sparseconv {

void sort_keys(uint64_t* keys, int32_t* rows, int64_t count, int bits) {
  constexpr int DIGIT = 11;
  constexpr size_t BUCKETS = size_t{1} << DIGIT;
  std::unique_ptr<uint64_t[]> other_keys(new uint64_t[count]);
  std::unique_ptr<int32_t[]> other_rows(rows == nullptr ? nullptr : new int32_t[count]);
  uint64_t *from = keys, *to = other_keys.get();
  int32_t *from_rows = rows, *to_rows = other_rows.get();
  std::unique_ptr<int64_t[]> places(new int64_t[BUCKETS]);
  for (int shift = 0; shift < bits; shift += DIGIT) {
    std::memset(places.get(), 0, BUCKETS * sizeof(int64_t));
    for (int64_t i = 0; i < count; ++i) ++places[(from[i] >> shift) & (BUCKETS - 1)];
    int64_t sum = 0;
    for (size_t b = 0; b < BUCKETS; ++b) sum += std::exchange(places[b], sum);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = places[(from[i] >> shift) & (BUCKETS - 1)]++;
      to[place] = from[i];
      if (rows != nullptr) to_rows[place] = from_rows[i];
    }
    std::swap(from, to);
    std::swap(from_rows, to_rows);
  }
  if (from != keys) {
    std::memcpy(keys, from, static_cast<size_t>(count) * sizeof(uint64_t));
    if (rows != nullptr) std::memcpy(rows, from_rows, static_cast<size_t>(count) * sizeof(int32_t));
  }
}

void check_cells(const char* op, const at::Tensor& keys, const at::Tensor& order) {
  check_tensor(op, "keys", keys, at::kLong, 1);
  check_tensor(op, "order", order, at::kInt, 1);
  const int64_t count = keys.numel();
  CHECK_VALUE(
      order.numel() == count, op, ": order must have one row for each of the ", count, " keys, not ", order.numel());
  const int64_t* key = keys.const_data_ptr<int64_t>();
  const int32_t* row = order.const_data_ptr<int32_t>();
  std::atomic<int64_t> unsorted{-1}, misplaced{-1};
  at::parallel_for(0, count, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i > 0 ? key[i] <= key[i - 1] : key[i] < 0) unsorted = i;
      if (row[i] < 0 || row[i] >= count) misplaced = i;
    }
  });
  CHECK_VALUE(unsorted < 0, op, ": keys must go up, but do not at ", unsorted.load());
  CHECK_VALUE(misplaced < 0, op, ": order must have rows in 0..", count - 1, ", but has not at ", misplaced.load());
}

namespace {

std::tuple<at::Tensor, at::Tensor> sort_cells(const at::Tensor& indices, at::IntArrayRef spatial_shape) {
  const char* op = "sort_cells";
  check_tensor(op, "indices", indices, at::kInt, 2);
  CHECK_VALUE(
      indices.size(1) == 4, op, ": indices must have 4 columns (cloud, x, y, z), not ", indices.size(1));
  const Triple shape = check_triple(op, "spatial_shape", spatial_shape, 1, LARGEST_EXTENT);
  const int64_t count = indices.size(0);
  CHECK_VALUE(count < INT32_MAX, op, ": indices must have fewer than 2^31 rows, not ", count);
  const int bits = bits_of(shape);
  const int64_t clouds = largest_cloud(bits);
  at::Tensor keys = at::empty({count}, indices.options().dtype(at::kLong));
  at::Tensor order = at::empty({count}, indices.options());
  const int32_t* cell = indices.const_data_ptr<int32_t>();
  auto* key = reinterpret_cast<uint64_t*>(keys.mutable_data_ptr<int64_t>());
  auto* row = order.mutable_data_ptr<int32_t>();
  std::atomic<int64_t> outside{-1};
  std::atomic<uint64_t> used{0};
  at::parallel_for(0, count, 1 << 14, [&](int64_t begin, int64_t end) {
    uint64_t seen = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t* c = cell + 4 * i;
      if (c[0] < 0 || c[0] > clouds || c[1] < 0 || c[1] >= shape[0] || c[2] < 0 || c[2] >= shape[1] || c[3] < 0 ||
          c[3] >= shape[2]) {
        outside = i;
        return;
      }
      key[i] = static_cast<uint64_t>(c[0]) << 3 * bits | curve(c[1], c[2], c[3]);
      seen |= key[i];
      row[i] = static_cast<int32_t>(i);
    }
    used |= seen;
  });
  if (const int64_t i = outside; i >= 0) {
    const int32_t* c = cell + 4 * i;
    CHECK_VALUE(
        c[0] >= 0 && c[0] <= clouds, op, ": indices row ", i, " has cloud ", c[0], ", which must lie in 0..", clouds);
    CHECK_VALUE(
        false, op, ": indices row ", i, " has the cell (", c[1], ", ", c[2], ", ", c[3],
        "), which must lie inside of spatial_shape (", shape[0], ", ", shape[1], ", ", shape[2], ")");
  }
  std::atomic<bool> sorted{true};
  at::parallel_for(1, count, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (key[i] <= key[i - 1]) {
        sorted = false;
        return;
      }
    }
  });
  if (!sorted) {
    int width = 0;
    while (width < 63 && (used.load() >> width) != 0) ++width;
    sort_keys(key, row, count, width);
    for (int64_t i = 1; i < count; ++i) {
      CHECK_VALUE(
          key[i] != key[i - 1], op, ": indices rows ", row[i - 1], " and ", row[i],
          " are the same cell; each cell must be there once");
    }
  }
  return {keys, order};
}

}  // namespace

TORCH_LIBRARY_IMPL(sparseconv, CPU, m) { m.impl("sort_cells", &sort_cells); }

}  // namespace sparseconv
