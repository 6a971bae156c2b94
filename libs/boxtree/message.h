// The text of an exception, put together without a stream: torch's own way of it, c10::str, compiles std::ostream into
// the extension, which ends the process where the linker gave the extension a C++ library of its own (static libstdc++:
// the process then has two, and a number written to the stream of one looks for the locale of the other).
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include <cstdio>
#include <string>
#include <type_traits>

namespace boxtree {

inline std::string text(const char* words) { return words; }
inline std::string text(const std::string& words) { return words; }
inline std::string text(c10::Device device) { return device.str(); }
inline std::string text(c10::ScalarType dtype) { return c10::toString(dtype); }

template <typename Integer, std::enable_if_t<std::is_integral_v<Integer>, bool> = true>
std::string text(Integer number) {
  return std::to_string(number);
}

inline std::string text(double number) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", number);
  return digits;
}

inline std::string text(c10::IntArrayRef shape) {
  std::string words = "[";
  for (size_t i = 0; i < shape.size(); ++i) words += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return words + "]";
}

template <typename... Parts>
std::string message(const Parts&... parts) {
  std::string whole;
  ((whole += text(parts)), ...);
  return whole;
}

}  // namespace boxtree

// torch's own checks with a text that is put together only on a refusal.
#define CHECK_VALUE(condition, ...) TORCH_CHECK_VALUE(condition, ::boxtree::message(__VA_ARGS__))
#define CHECK_TYPE(condition, ...) TORCH_CHECK_TYPE(condition, ::boxtree::message(__VA_ARGS__))
#define CHECK_RUN(condition, ...) TORCH_CHECK(condition, ::boxtree::message(__VA_ARGS__))
