// Convolution along a kernel map, and the plain product: checks, tiles shared among threads, choice of instructions.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

struct Instructions {
  const char* name;
  Convolve convolve;
  Convolve convolve_bfloat16;
  Round round;
};

#if defined(SPARSECONV_AMX)
// Whether Linux lets this process use the tile registers; it has to be asked, once for all threads.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}
#endif

// What this processor can run, the widest last.
const std::vector<Instructions>& instructions() {
  static const std::vector<Instructions> found = [] {
    std::vector<Instructions> known{{"default", &convolve_default, &convolve_bfloat16_default, &round_default}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      known.push_back({"avx2", &convolve_avx2, &convolve_bfloat16_avx2, &round_avx2});
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      known.push_back({"avx512", &convolve_avx512, &convolve_bfloat16_avx512, &round_avx512});
#if defined(SPARSECONV_AMX)
      if (__builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && may_use_tiles()) {
        known.push_back({"amx_bf16", &convolve_avx512, &convolve_amx_bf16, &round_avx512});
      }
#endif
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

// Copies a weight to panels of `stride` operands, each of so many numbers `abreast`, the next input channels.
template <typename Number>
void pack(const at::Tensor& weight, int64_t stride, Number* to, int64_t abreast, Number (*made)(float)) {
  const int64_t outputs = weight.size(0), inputs = weight.size(4);
  const int64_t volume = weight.numel() / (outputs * inputs), panels = tiles_of(outputs, PANEL);
  const float* from = weight.const_data_ptr<float>();
  at::parallel_for(0, volume * panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i / panels, first = i % panels * PANEL;
      Number* panel = to + i * stride * PANEL * abreast;
      for (int64_t c = first; c < std::min(first + PANEL, outputs); ++c) {
        const float* column = from + (c * volume + offset) * inputs;
        for (int64_t k = 0; k < inputs; ++k) {
          panel[(k / abreast * PANEL + c - first) * abreast + k % abreast] = made(column[k]);
        }
      }
    }
  });
}

void check_weight(const char* op, const at::Tensor& weight) {
  check_tensor(op, "weight", weight, at::kFloat, 5);
  CHECK_VALUE(weight.numel() > 0, op, ": weight must not be empty");
}

at::Tensor pack_weight(const at::Tensor& weight) {
  check_weight("pack_weight", weight);
  const int64_t inputs = weight.size(4), volume = weight.size(1) * weight.size(2) * weight.size(3);
  at::Tensor packed = at::zeros({volume, tiles_of(weight.size(0), PANEL), inputs, PANEL}, weight.options());
  pack<float>(weight, inputs, packed.mutable_data_ptr<float>(), 1, [](float number) { return number; });
  return packed;
}

at::Tensor pack_weight_bfloat16(const at::Tensor& weight) {
  check_weight("pack_weight_bfloat16", weight);
  const int64_t stride = pairs_of(weight.size(4)), volume = weight.size(1) * weight.size(2) * weight.size(3);
  at::Tensor packed =
      at::zeros({volume, tiles_of(weight.size(0), PANEL), stride, PANEL, 2}, weight.options().dtype(at::kBFloat16));
  pack<at::BFloat16>(
      weight, stride, packed.mutable_data_ptr<at::BFloat16>(), 2, [](float number) { return at::BFloat16(number); });
  return packed;
}

// The features as operands of bfloat16 where the weight is of it, else as they are.
at::Tensor operands(const at::Tensor& features, const at::Tensor& packed) {
  if (packed.scalar_type() == at::kFloat) return features;
  const int64_t channels = features.size(1), stride = packed.size(2);
  at::Tensor made = at::empty({features.size(0), stride}, features.options().dtype(at::kInt));
  const float* from = features.const_data_ptr<float>();
  auto* to = reinterpret_cast<uint32_t*>(made.mutable_data_ptr<int32_t>());
  const Round round = choice().round;
  at::parallel_for(0, features.size(0), 1 + (1 << 14) / stride, [&](int64_t begin, int64_t end) {
    round(from + begin * channels, end - begin, channels, stride, to + begin * stride);
  });
  return made;
}

const uint32_t* bits_of_numbers(const at::Tensor& tensor) {
  return static_cast<const uint32_t*>(tensor.const_data_ptr());
}

// Checks what `conv` and `linear` have in common, and returns a tile with all but its features and rows.
Tile prepare(
    const char* op, const at::Tensor& features, const at::Tensor& packed, int64_t out_channels,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& residual, bool relu, int64_t rows) {
  check_tensor(op, "features", features, at::kFloat, 2);
  const bool narrow = packed.scalar_type() == at::kBFloat16;
  check_tensor(op, "packed", packed, narrow ? at::kBFloat16 : at::kFloat, narrow ? 5 : 4);
  CHECK_VALUE(
      out_channels > 0 && packed.size(0) > 0 && packed.size(1) == tiles_of(out_channels, PANEL) &&
          packed.size(3) == PANEL && (!narrow || packed.size(4) == 2),
      op, ": packed must be what ", narrow ? "pack_weight_bfloat16" : "pack_weight",
      " makes of a weight with out_channels ", out_channels, ", not of shape ", packed.sizes());
  const int64_t channels = features.size(1);
  if (narrow) {
    CHECK_VALUE(
        packed.size(2) > 0 && packed.size(2) == pairs_of(channels), op,
        ": features must have as many columns as the weight, ", 2 * packed.size(2) - 31, "..", 2 * packed.size(2),
        ", not ", channels);
  } else {
    CHECK_VALUE(
        channels == packed.size(2), op, ": features must have ", packed.size(2), " columns as the weight has, not ",
        channels);
  }
  CHECK_VALUE(features.size(0) <= INT32_MAX, op, ": features must have fewer than 2^31 rows");
  Tile tile{};
  tile.weight = bits_of_numbers(packed);
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
  tile.stride = packed.size(2);
  tile.depth = narrow ? (channels + 1) / 2 : channels;
  tile.out_channels = out_channels;
  tile.volume = packed.size(0);
  tile.panels = packed.size(1);
  tile.relu = relu;
  tile.gathers = narrow;
  return tile;
}

Convolve kernel(const at::Tensor& packed) {
  return packed.scalar_type() == at::kBFloat16 ? choice().convolve_bfloat16 : choice().convolve;
}

// Calls `work(tile, t)` for every tile t and every share of its columns, threads taking the next as they come.
template <typename Work>
void share(const Tile& model, int64_t tiles, Work work) {
  const int64_t threads = at::get_num_threads();
  // Few tiles are cut by columns too, so that no thread goes without.
  int64_t shares = 1;
  while (tiles * shares < 4 * threads && 4 * shares <= model.panels) shares *= 2;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min(threads, tiles * shares), 1, [&](int64_t, int64_t) {
    // Rows in whole lines of the cache.
    std::vector<uint32_t> room(model.gathers ? TILE_ROWS * model.stride + 15 : 0);
    for (int64_t i = next++; i < tiles * shares; i = next++) {
      Tile tile = model;
      tile.room = room.data() + (-(reinterpret_cast<uintptr_t>(room.data()) / sizeof(uint32_t)) & 15);
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
  Tile model = prepare(op, features, packed, out_channels, bias, residual, relu, count);
  const at::Tensor left = operands(features, packed);
  model.features = bits_of_numbers(left);
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
  const Convolve convolve = kernel(packed);
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
  Tile model = prepare(op, features, packed, out_channels, bias, residual, relu, count);
  const at::Tensor left = operands(features, packed);
  model.features = bits_of_numbers(left);
  CHECK_VALUE(model.volume == 1, op, ": packed must have one kernel offset, not ", model.volume);
  at::Tensor output = at::empty({count, out_channels}, features.options());
  float* result = output.mutable_data_ptr<float>();
  const Convolve convolve = kernel(packed);
  int32_t places[TILE_ROWS];
  uint8_t targets[TILE_ROWS];
  std::iota(places, places + TILE_ROWS, 0);
  std::iota(targets, targets + TILE_ROWS, 0);
  share(model, tiles_of(count, TILE_ROWS), [&](Tile& tile, int64_t t) {
    const int64_t first = t * TILE_ROWS;
    tile.count = std::min<int64_t>(TILE_ROWS, count - first);
    tile.features += first * tile.stride;
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
  m.impl("pack_weight_bfloat16", &pack_weight_bfloat16);
  m.impl("conv", &conv);
  m.impl("linear", &linear);
}

TORCH_LIBRARY_IMPL(sparseconv, CompositeExplicitAutograd, m) {
  m.impl("cpu_instructions", &cpu_instructions);
  m.impl("use_cpu_instructions", &use_cpu_instructions);
}

}  // namespace sparseconv
