// Four floats side by side: SSE on x86, plain loops elsewhere; the same results on both.
#pragma once

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace boxtree {

constexpr int kLanes = 4;

#ifdef __SSE2__

struct Lanes {
  __m128 v;
  static Lanes load(const float* p) { return {_mm_loadu_ps(p)}; }
  static Lanes all(float f) { return {_mm_set1_ps(f)}; }
  void store(float* p) const { _mm_storeu_ps(p, v); }
};
inline Lanes operator+(Lanes a, Lanes b) { return {_mm_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm_mul_ps(a.v, b.v)}; }
inline Lanes larger(Lanes a, Lanes b) { return {_mm_max_ps(a.v, b.v)}; }
inline Lanes smaller(Lanes a, Lanes b) { return {_mm_min_ps(a.v, b.v)}; }
// One bit a lane.
inline unsigned less_equal(Lanes a, Lanes b) { return static_cast<unsigned>(_mm_movemask_ps(_mm_cmple_ps(a.v, b.v))); }
inline unsigned less(Lanes a, Lanes b) { return static_cast<unsigned>(_mm_movemask_ps(_mm_cmplt_ps(a.v, b.v))); }

#else

struct Lanes {
  float v[kLanes];
  static Lanes load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static Lanes all(float f) { return {{f, f, f, f}}; }
  void store(float* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = v[i];
  }
};
template <class F>
Lanes lane_by_lane(Lanes a, Lanes b, F f) {
  return {{f(a.v[0], b.v[0]), f(a.v[1], b.v[1]), f(a.v[2], b.v[2]), f(a.v[3], b.v[3])}};
}
inline Lanes operator+(Lanes a, Lanes b) { return lane_by_lane(a, b, [](float x, float y) { return x + y; }); }
inline Lanes operator-(Lanes a, Lanes b) { return lane_by_lane(a, b, [](float x, float y) { return x - y; }); }
inline Lanes operator*(Lanes a, Lanes b) { return lane_by_lane(a, b, [](float x, float y) { return x * y; }); }
inline Lanes larger(Lanes a, Lanes b) { return lane_by_lane(a, b, [](float x, float y) { return x > y ? x : y; }); }
inline Lanes smaller(Lanes a, Lanes b) { return lane_by_lane(a, b, [](float x, float y) { return x < y ? x : y; }); }
inline unsigned less_equal(Lanes a, Lanes b) {
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(a.v[i] <= b.v[i]) << i;
  return bits;
}
inline unsigned less(Lanes a, Lanes b) {
  unsigned bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<unsigned>(a.v[i] < b.v[i]) << i;
  return bits;
}

#endif

}  // namespace boxtree
