// Convolution along a kernel map, and the plain product: checks, tiles shared among threads, choice of instructions.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "cells.h"
#include "tile.h"

namespace sparseconv {
namespace {

using Convolve = void (*)(const Tile&);

struct Instructions {
  const char* name;
  Convolve convolve;
};

// What this processor can run, the widest last.
const std::vector<Instructions>& instructions() {
  static const std::vector<Instructions> found = [] {
    std::vector<Instructions> known{{"default", &convolve_default}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) known.push_back({"avx2", &convolve_avx2});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      known.push_back({"avx512", &convolve_avx512});
    }
#endif
    return known;
  }();
  return found;
}

std::atomic<const Instructions*> chosen{nullptr};

const Instructions& choice() {
  const Instructions* one = chosen;
  return one != nullptr ? *one : instructions().back();
}

std::vector<std::string> cpu_instructions() {
  std::vector<std::string> names;
  for (const Instructions& one : instructions()) names.emplace_back(one.name);
  return names;
}

std::string use_cpu_instructions(std::string name) {
  const std::string before = choice().name;
  for (const Instructions& one : instructions()) {
    if (name == one.name) {
      chosen = &one;
      return before;
    }
  }
  CHECK_VALUE(false, "use_cpu_instructions: name must be one of cpu_instructions(), not '", name, "'");
}

at::Tensor pack_weight(const at::Tensor& weight) {
  const char* op = "pack_weight";
  check_tensor(op, "weight", weight, at::kFloat, 5);
  CHECK_VALUE(weight.numel() > 0, op, ": weight must not be empty");
  const int64_t outputs = weight.size(0), inputs = weight.size(4);
  const int64_t volume = weight.size(1) * weight.size(2) * weight.size(3);
  const int64_t panels = tiles_of(outputs, PANEL);
  at::Tensor packed = at::zeros({volume, panels, inputs, PANEL}, weight.options());
  const float* from = weight.const_data_ptr<float>();
  float* to = packed.mutable_data_ptr<float>();
  at::parallel_for(0, volume * panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i / panels, first = i % panels * PANEL;
      for (int64_t c = first; c < std::min(first + PANEL, outputs); ++c) {
        const float* column = from + (c * volume + offset) * inputs;
        for (int64_t k = 0; k < inputs; ++k) to[(i * inputs + k) * PANEL + c - first] = column[k];
      }
    }
  });
  return packed;
}

// Checks what `conv` and `linear` have in common, and returns a tile with all but its rows.
Tile prepare(
    const char* op, const at::Tensor& features, const at::Tensor& packed, int64_t out_channels,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& residual, bool relu, int64_t rows) {
  check_tensor(op, "features", features, at::kFloat, 2);
  check_tensor(op, "packed", packed, at::kFloat, 4);
  CHECK_VALUE(
      out_channels > 0 && packed.size(0) > 0 && packed.size(1) == tiles_of(out_channels, PANEL) && packed.size(3) == PANEL,
      op, ": packed must be what pack_weight makes of a weight with out_channels ", out_channels, ", not of shape ",
      packed.sizes());
  CHECK_VALUE(
      features.size(1) == packed.size(2), op, ": features must have ", packed.size(2), " columns as the weight has, not ",
      features.size(1));
  CHECK_VALUE(features.size(0) <= INT32_MAX, op, ": features must have fewer than 2^31 rows");
  Tile tile{};
  tile.features = features.const_data_ptr<float>();
  tile.weight = packed.const_data_ptr<float>();
  if (bias.has_value()) {
    check_tensor(op, "bias", *bias, at::kFloat, 1);
    CHECK_VALUE(
        bias->numel() == out_channels, op, ": bias must have ", out_channels, " numbers, not ", bias->numel());
    tile.bias = bias->const_data_ptr<float>();
  }
  if (residual.has_value()) {
    check_tensor(op, "residual", *residual, at::kFloat, 2);
    CHECK_VALUE(
        residual->size(0) == rows && residual->size(1) == out_channels, op, ": residual must be of shape (", rows, ", ",
        out_channels, ") as the result, not ", residual->sizes());
    tile.residual = residual->const_data_ptr<float>();
  }
  tile.in_channels = features.size(1);
  tile.out_channels = out_channels;
  tile.volume = packed.size(0);
  tile.panels = packed.size(1);
  tile.relu = relu;
  return tile;
}

// Calls `work(tile, t, scratch)` for every tile t and every share of its columns, threads taking the next as they come.
template <typename Work>
void share(const Tile& model, int64_t tiles, Work work) {
  const int64_t threads = at::get_num_threads();
  // Few tiles are cut by columns too, so that no thread goes without.
  int64_t shares = 1;
  while (tiles * shares < 4 * threads && 4 * shares <= model.panels) shares *= 2;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min(threads, tiles * shares), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < tiles * shares; i = next++) {
      Tile tile = model;
      // Cut at even panels, which wide registers take two at a time.
      const int64_t doubles = (model.panels + 1) / 2, share = i / tiles;
      tile.first_panel = std::min(doubles * share / shares * 2, model.panels);
      tile.last_panel = std::min(doubles * (share + 1) / shares * 2, model.panels);
      work(tile, i % tiles);
    }
  });
}

at::Tensor conv(
    const at::Tensor& features, const at::Tensor& packed, int64_t out_channels, const at::Tensor& rows,
    const at::Tensor& starts, const at::Tensor& sources, const at::Tensor& targets,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& residual, bool relu) {
  const char* op = "conv";
  check_tensor(op, "rows", rows, at::kInt, 1);
  check_tensor(op, "starts", starts, at::kLong, 1);
  check_tensor(op, "sources", sources, at::kInt, 1);
  check_tensor(op, "targets", targets, at::kByte, 1);
  const int64_t count = rows.numel(), pairs = sources.numel();
  const Tile model = prepare(op, features, packed, out_channels, bias, residual, relu, count);
  const int64_t tiles = tiles_of(count, TILE_ROWS), inputs = features.size(0);
  CHECK_VALUE(
      starts.numel() == tiles * model.volume + 1, op, ": starts must have ", tiles * model.volume + 1,
      " numbers for ", count, " rows and ", model.volume, " kernel offsets, not ", starts.numel());
  CHECK_VALUE(
      targets.numel() == pairs, op, ": targets must be as long as sources, ", pairs, ", not ", targets.numel());
  const int64_t* start = starts.const_data_ptr<int64_t>();
  const int32_t* row = rows.const_data_ptr<int32_t>();
  const int32_t* source = sources.const_data_ptr<int32_t>();
  const uint8_t* target = targets.const_data_ptr<uint8_t>();
  CHECK_VALUE(
      start[0] == 0 && start[tiles * model.volume] == pairs, op, ": starts must go from 0 to the ", pairs, " pairs");
  std::vector<bool> there(count, false);
  for (int64_t i = 0; i < count; ++i) {
    CHECK_VALUE(
        row[i] >= 0 && row[i] < count && !there[row[i]], op, ": rows must have each of 0..", count - 1,
        " once, but has ", row[i], " at ", i);
    there[row[i]] = true;
  }

  at::Tensor output = at::empty({count, out_channels}, features.options());
  float* result = output.mutable_data_ptr<float>();
  const Convolve convolve = choice().convolve;
  std::atomic<const char*> wrong{nullptr};
  share(model, tiles, [&](Tile& tile, int64_t t) {
    tile.output = result;
    tile.rows = row + t * TILE_ROWS;
    tile.count = std::min<int64_t>(TILE_ROWS, count - t * TILE_ROWS);
    tile.starts = start + t * tile.volume;
    tile.sources = source;
    tile.targets = target;
    for (int64_t o = 0; o < tile.volume; ++o) {
      const int64_t number = tile.starts[o + 1] - tile.starts[o];
      if (number < 0 || number > tile.count || tile.starts[o] < 0 || tile.starts[o + 1] > pairs) {
        wrong = "starts must go up, by no more than the rows of a tile for each kernel offset";
        return;
      }
    }
    uint32_t farthest = 0, deepest = 0;
    for (int64_t i = tile.starts[0]; i < tile.starts[tile.volume]; ++i) {
      farthest = std::max(farthest, static_cast<uint32_t>(source[i]));
      deepest = std::max<uint32_t>(deepest, target[i]);
    }
    if (tile.starts[0] < tile.starts[tile.volume]) {
      if (farthest >= inputs) wrong = "sources must be rows of features";
      if (deepest >= tile.count) wrong = "targets must be places in their tile";
      if (farthest >= inputs || deepest >= tile.count) return;
    }
    convolve(tile);
  });
  CHECK_VALUE(wrong == nullptr, op, ": ", wrong.load());
  return output;
}

at::Tensor linear(
    const at::Tensor& features, const at::Tensor& packed, int64_t out_channels, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& residual, bool relu) {
  const char* op = "linear";
  const int64_t count = features.dim() == 2 ? features.size(0) : 0;
  const Tile model = prepare(op, features, packed, out_channels, bias, residual, relu, count);
  CHECK_VALUE(model.volume == 1, op, ": packed must have one kernel offset, not ", model.volume);
  at::Tensor output = at::empty({count, out_channels}, features.options());
  float* result = output.mutable_data_ptr<float>();
  const Convolve convolve = choice().convolve;
  int32_t places[TILE_ROWS];
  uint8_t targets[TILE_ROWS];
  std::iota(places, places + TILE_ROWS, 0);
  std::iota(targets, targets + TILE_ROWS, 0);
  share(model, tiles_of(count, TILE_ROWS), [&](Tile& tile, int64_t t) {
    const int64_t first = t * TILE_ROWS;
    tile.count = std::min<int64_t>(TILE_ROWS, count - first);
    tile.features += first * tile.in_channels;
    tile.output = result + first * tile.out_channels;
    if (tile.residual != nullptr) tile.residual += first * tile.out_channels;
    const int64_t starts[2] = {0, tile.count};
    tile.rows = places;
    tile.starts = starts;
    tile.sources = places;
    tile.targets = targets;
    convolve(tile);
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(sparseconv, CPU, m) {
  m.impl("pack_weight", &pack_weight);
  m.impl("conv", &conv);
  m.impl("linear", &linear);
}

TORCH_LIBRARY_IMPL(sparseconv, CompositeExplicitAutograd, m) {
  m.impl("cpu_instructions", &cpu_instructions);
  m.impl("use_cpu_instructions", &use_cpu_instructions);
}

}  // namespace sparseconv
