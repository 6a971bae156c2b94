// The cells of a strided convolution's output, and its pairs both ways: down, and up again for the inverse.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "cells.h"
#include "tile.h"

namespace sparseconv {
namespace {

struct Pair {
  int32_t input;   // place in the sorted keys of the input
  int32_t output;  // row of the output
  int32_t offset;
};

struct Map {
  at::Tensor starts, sources, targets;
};

// Sorts pairs by the tile of their target and by offset, keeping their order otherwise.
template <typename Target, typename Source>
Map sort_pairs(
    const std::vector<Pair>& pairs, int64_t rows, int64_t volume, const at::TensorOptions& options, Target target_of,
    Source source_of) {
  const int64_t slots = tiles_of(rows, TILE_ROWS) * volume;
  Map map{
      at::empty({slots + 1}, options.dtype(at::kLong)),
      with_large_pages(at::empty({static_cast<int64_t>(pairs.size())}, options.dtype(at::kInt))),
      with_large_pages(at::empty({static_cast<int64_t>(pairs.size())}, options.dtype(at::kByte)))};
  int64_t* start = map.starts.mutable_data_ptr<int64_t>();
  int32_t* source = map.sources.mutable_data_ptr<int32_t>();
  uint8_t* target = map.targets.mutable_data_ptr<uint8_t>();
  std::fill(start, start + slots + 1, 0);
  for (const Pair& pair : pairs) ++start[target_of(pair) / TILE_ROWS * volume + pair.offset];
  int64_t sum = 0;
  for (int64_t s = 0; s <= slots; ++s) {
    sum += start[s];
    start[s] = sum;
  }
  // From the back, each start moves down to where its pairs begin.
  for (size_t i = pairs.size(); i-- > 0;) {
    const int64_t place = target_of(pairs[i]);
    const int64_t at = --start[place / TILE_ROWS * volume + pairs[i].offset];
    source[at] = source_of(pairs[i]);
    target[at] = static_cast<uint8_t>(place % TILE_ROWS);
  }
  return map;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> down_map(
    const at::Tensor& keys, const at::Tensor& order, at::IntArrayRef spatial_shape, at::IntArrayRef kernel_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const char* op = "down_map";
  const Triple shape = check_triple(op, "spatial_shape", spatial_shape, 1, LARGEST_EXTENT);
  const Triple kernel = check_triple(op, "kernel_size", kernel_size, 1, 31);
  const Triple step = check_triple(op, "stride", stride, 1, 1 << 10);
  const Triple pad = check_triple(op, "padding", padding, 0, 1 << 10);
  const Triple spread_by = check_triple(op, "dilation", dilation, 1, 32);
  check_cells(op, keys, order);
  Triple coarse;
  for (int a = 0; a < 3; ++a) {
    const int64_t room = shape[a] + 2 * pad[a] - spread_by[a] * (kernel[a] - 1) - 1;
    TORCH_CHECK_VALUE(
        room >= 0, op, ": spatial_shape has an extent of ", shape[a], " cells, too few for a window of kernel_size ",
        kernel[a]);
    coarse[a] = room / step[a] + 1;
    TORCH_CHECK_VALUE(
        coarse[a] <= LARGEST_EXTENT, op, ": padding makes a grid of more than ", LARGEST_EXTENT, " cells");
  }
  const int fine_bits = bits_of(shape), coarse_bits = bits_of(coarse);
  const int64_t count = keys.numel(), volume = kernel[0] * kernel[1] * kernel[2];
  const auto* key = reinterpret_cast<const uint64_t*>(keys.const_data_ptr<int64_t>());
  const int32_t* row = order.const_data_ptr<int32_t>();
  if (count > 0) {
    TORCH_CHECK_VALUE(
        static_cast<int64_t>(key[count - 1] >> 3 * fine_bits) <= largest_cloud(coarse_bits), op,
        ": padding makes a grid that is too large for so many clouds");
  }

  std::vector<Pair> pairs;
  std::vector<uint64_t> windows;  // key of each pair's output
  pairs.reserve(count);
  windows.reserve(count);
  bool sorted = true;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t cell = key[i] & below(3 * fine_bits);
    const uint64_t cloud = key[i] >> 3 * fine_bits << 3 * coarse_bits;
    const int64_t at[3] = {
        static_cast<int64_t>(gather(cell >> 2)), static_cast<int64_t>(gather(cell >> 1)),
        static_cast<int64_t>(gather(cell))};
    // Along each axis, the offsets at which a window sees this cell.
    int64_t number[3], offset[3][31], window[3][31];
    for (int a = 0; a < 3; ++a) {
      number[a] = 0;
      for (int64_t k = 0; k < kernel[a]; ++k) {
        const int64_t from = at[a] + pad[a] - k * spread_by[a];
        if (from < 0) break;
        if (from % step[a] != 0 || from / step[a] >= coarse[a]) continue;
        offset[a][number[a]] = k;
        window[a][number[a]++] = from / step[a];
      }
    }
    for (int64_t x = 0; x < number[0]; ++x) {
      for (int64_t y = 0; y < number[1]; ++y) {
        for (int64_t z = 0; z < number[2]; ++z) {
          const uint64_t to = cloud | curve(window[0][x], window[1][y], window[2][z]);
          sorted = sorted && (windows.empty() || windows.back() <= to);
          windows.push_back(to);
          const int64_t o = (offset[0][x] * kernel[1] + offset[1][y]) * kernel[2] + offset[2][z];
          pairs.push_back({static_cast<int32_t>(i), 0, static_cast<int32_t>(o)});
        }
      }
    }
  }
  TORCH_CHECK_VALUE(pairs.size() < INT32_MAX, op, ": keys and kernel_size give more than 2^31 pairs");

  // Where windows follow each other along the curve (kernel = stride = 2) their keys are sorted already.
  std::vector<uint64_t> unique;
  if (sorted) {
    for (size_t i = 0; i < pairs.size(); ++i) {
      if (unique.empty() || unique.back() != windows[i]) unique.push_back(windows[i]);
      pairs[i].output = static_cast<int32_t>(unique.size() - 1);
    }
  } else {
    unique = windows;
    uint64_t used = 0;
    for (uint64_t window : unique) used |= window;
    int width = 0;
    while (width < 63 && (used >> width) != 0) ++width;
    sort_keys(unique.data(), nullptr, static_cast<int64_t>(unique.size()), width);
    unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
    at::parallel_for(0, static_cast<int64_t>(pairs.size()), 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pairs[i].output =
            static_cast<int32_t>(std::lower_bound(unique.begin(), unique.end(), windows[i]) - unique.begin());
      }
    });
  }
  std::vector<uint64_t>().swap(windows);

  const auto outputs = static_cast<int64_t>(unique.size());
  at::Tensor indices = at::empty({outputs, 4}, order.options());
  at::Tensor coarse_keys = at::empty({outputs}, keys.options());
  int32_t* cell = indices.mutable_data_ptr<int32_t>();
  int64_t* coarse_key = coarse_keys.mutable_data_ptr<int64_t>();
  at::parallel_for(0, outputs, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t within = unique[i] & below(3 * coarse_bits);
      coarse_key[i] = static_cast<int64_t>(unique[i]);
      cell[4 * i] = static_cast<int32_t>(unique[i] >> 3 * coarse_bits);
      cell[4 * i + 1] = static_cast<int32_t>(gather(within >> 2));
      cell[4 * i + 2] = static_cast<int32_t>(gather(within >> 1));
      cell[4 * i + 3] = static_cast<int32_t>(gather(within));
    }
  });
  const Map down = sort_pairs(
      pairs, outputs, volume, keys.options(), [](const Pair& pair) { return static_cast<int64_t>(pair.output); },
      [row](const Pair& pair) { return row[pair.input]; });
  const Map up = sort_pairs(
      pairs, count, volume, keys.options(), [](const Pair& pair) { return static_cast<int64_t>(pair.input); },
      [](const Pair& pair) { return pair.output; });
  return {indices, coarse_keys, down.starts, down.sources, down.targets, up.starts, up.sources, up.targets};
}

}  // namespace

TORCH_LIBRARY_IMPL(sparseconv, CPU, m) { m.impl("down_map", &down_map); }

}  // namespace sparseconv
