// CUDA's conversions of halves, by the definition of the format and not by csrc/storage.h's way.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half half) { return half.bits; }

inline float __half2float(__half half) {
  const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
  float size = exponent == 0   ? std::ldexp(float(fraction), -24)
               : exponent < 31 ? std::ldexp(float(1024 + fraction), exponent - 25)
               : fraction == 0 ? INFINITY
                               : NAN;
  return half.bits & 0x8000 ? -size : size;
}

// Rounds to the nearest half, and to the even one of two.
inline __half __float2half_rn(float value) {
  if (std::isnan(value)) return {0x7fff};
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (size >= 65520) return {uint16_t(sign | 0x7c00)};
  // Halves of this exponent are multiples of 2^(exponent - 10), and the smallest of 2^-24.
  const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  const int multiple = int(std::nearbyint(std::ldexp(double(size), 10 - exponent)));
  return {uint16_t(sign | (((exponent + 14) << 10) + multiple))};
}
