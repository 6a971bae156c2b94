// For processors with AVX-512: 16 of 32 registers hold sums, as many rows as there are registers for addresses.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,fma,prefer-vector-width=512")
#endif
#define NAMED(name) name##_avx512
#define WIDTH 16
#define ROWS 8
#define ABREAST 2
#define MULTIPLY_ADD(sum, a, b) _mm512_fmadd_ps(a, b, sum)
#include "tile.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
