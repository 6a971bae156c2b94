// For processors whose tile registers (AMX) multiply 16x32 by 32x16 numbers of bfloat16 at once: a kernel offset's rows
// are gathered side by side, multiplied in blocks of 32 rows by two panels, and the products added to their rows.
#include "tile.h"

#if defined(SPARSECONV_AMX)
#include <immintrin.h>

#include <cstring>
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512dq,amx-tile,amx-bf16,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,amx-tile,amx-bf16,fma,prefer-vector-width=512")
#endif
#include "tile_ends.inc"

namespace sparseconv {
namespace {

constexpr int SIDE = 16;  // rows of a tile register, and its operands in a row

// Registers 0..3 hold sums, 4 and 5 rows, 6 and 7 weights; all of 16 rows of 64 bytes.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Configuration CONFIGURATION;

// 16 * R gathered rows times P panels; the products into `result`, rows of 32.
template <int R, int P>
void multiply(const uint32_t* left, const uint32_t* right, int64_t stride, float* result) {
  constexpr int64_t ROW_BYTES = 2 * PANEL * sizeof(float);
  const int64_t left_bytes = stride * 4;
  _tile_zero(0);
  if constexpr (P > 1) _tile_zero(1);
  if constexpr (R > 1) _tile_zero(2);
  if constexpr (R > 1 && P > 1) _tile_zero(3);
  for (int64_t k = 0; k < stride; k += SIDE) {
    _tile_loadd(4, left + k, left_bytes);
    if constexpr (R > 1) _tile_loadd(5, left + SIDE * stride + k, left_bytes);
    _tile_loadd(6, right + k * PANEL, 64);
    if constexpr (P > 1) _tile_loadd(7, right + (stride + k) * PANEL, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (P > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (R > 1) _tile_dpbf16ps(2, 5, 6);
    if constexpr (R > 1 && P > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, result, ROW_BYTES);
  if constexpr (P > 1) _tile_stored(1, result + PANEL, ROW_BYTES);
  if constexpr (R > 1) _tile_stored(2, result + 2 * PANEL * SIDE, ROW_BYTES);
  if constexpr (R > 1 && P > 1) _tile_stored(3, result + 2 * PANEL * SIDE + PANEL, ROW_BYTES);
}

// Adds up to 32 rows of up to two panels to the output.
void add(const float* products, float* const* target, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    float* to = target[i];
    const float* from = products + i * 2 * PANEL;
    if (columns == 2 * PANEL) {
      for (int c = 0; c < 2 * PANEL; ++c) to[c] += from[c];
    } else {
      for (int64_t c = 0; c < columns; ++c) to[c] += from[c];
    }
  }
}

}  // namespace

void convolve_amx_bf16(const Tile& tile) {
  _tile_loadconfig(&CONFIGURATION);
  begin_rows(tile);
  alignas(64) float products[2 * SIDE * 2 * PANEL];
  float* target[TILE_ROWS];
  const int64_t panel_size = tile.stride * PANEL;
  for (int64_t offset = 0; offset < tile.volume; ++offset) {
    const int64_t begin = tile.starts[offset];
    const int64_t count = tile.starts[offset + 1] - begin;
    if (count == 0) continue;
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(
          tile.room + i * tile.stride, tile.features + tile.sources[begin + i] * tile.stride,
          static_cast<size_t>(tile.stride) * sizeof(uint32_t));
      target[i] = tile.output + tile.rows[tile.targets[begin + i]] * tile.out_channels;
    }
    // To the compiler a load into a tile register reads no memory: the copies must not be put behind it.
    __asm__ volatile("" ::: "memory");
    for (int64_t panel = tile.first_panel; panel < tile.last_panel; panel += 2) {
      const uint32_t* right = tile.weight + (offset * tile.panels + panel) * panel_size;
      const bool two = panel + 1 < tile.last_panel;
      const int64_t rest = tile.out_channels - panel * PANEL, most = two ? 2 * PANEL : PANEL;
      const int64_t columns = rest < most ? rest : most;
      // Rows past the last are what the room held before: their products are left where they are.
      for (int64_t i = 0; i < count; i += 2 * SIDE) {
        const uint32_t* left = tile.room + i * tile.stride;
        if (count - i > SIDE) {
          two ? multiply<2, 2>(left, right, tile.stride, products) : multiply<2, 1>(left, right, tile.stride, products);
        } else {
          two ? multiply<1, 2>(left, right, tile.stride, products) : multiply<1, 1>(left, right, tile.stride, products);
        }
        float* places[2 * SIDE];
        const int64_t rows = count - i < 2 * SIDE ? count - i : 2 * SIDE;
        for (int64_t row = 0; row < rows; ++row) places[row] = target[i + row] + panel * PANEL;
        add(products, places, rows, columns);
      }
    }
  }
  end_rows(tile);
  _tile_release();
}

}  // namespace sparseconv
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
