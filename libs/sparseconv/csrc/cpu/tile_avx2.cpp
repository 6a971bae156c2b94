// For processors with AVX2 and fused multiply-add: 12 of 16 registers hold sums.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define NAMED(name) name##_avx2
#define WIDTH 8
#define ROWS 6
#define ABREAST 1
#define MULTIPLY_ADD(sum, a, b) _mm256_fmadd_ps(a, b, sum)
#include "tile.inc"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
