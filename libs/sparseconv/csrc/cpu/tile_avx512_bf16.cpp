// For processors that multiply pairs of bfloat16 in AVX-512 registers; for numbers of 32 bits they use tile_avx512.cpp.
#include "tile.h"

#if defined(SPARSECONV_BFLOAT16)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bf16,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bf16,fma,prefer-vector-width=512")
#endif
#define NAMED(name) name##_avx512_bf16
#define WIDTH 16
#define ROWS 8
#define ABREAST 2
#define DOT(sum, value, column) \
  reinterpret_cast<Vector>(_mm512_dpbf16_ps( \
      reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(value))), \
      reinterpret_cast<__m512bh>(column)))
#include "tile.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
