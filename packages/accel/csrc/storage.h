// How elements are stored, and the type of the arithmetic.
#pragma once

#include <cstring>

#include "numerics.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace torchopt {
namespace TORCHOPT_ISA {

template <class To, class From>
TORCHOPT_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

struct Float32 {
  using Memory = float;
  using Compute = float;
  TORCHOPT_FN static float load(float x) { return x; }
  TORCHOPT_FN static float store(float x) { return x; }
};

struct Float64 {
  using Memory = double;
  using Compute = double;
  TORCHOPT_FN static double load(double x) { return x; }
  TORCHOPT_FN static double store(double x) { return x; }
};

struct BFloat16 {
  using Memory = uint16_t;
  using Compute = float;
  TORCHOPT_FN static float load(uint16_t x) { return bit_cast<float>(uint32_t(x) << 16); }
  TORCHOPT_FN static uint16_t store(float x) {
    uint32_t bits = bit_cast<uint32_t>(x);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return uint16_t(x != x ? 0x7fc0 : rounded);
  }
};

struct Float16 {
  using Memory = uint16_t;
  using Compute = float;
#ifdef __CUDA_ARCH__
  TORCHOPT_FN static float load(uint16_t x) { return __half2float(__ushort_as_half(x)); }
  TORCHOPT_FN static uint16_t store(float x) { return __half_as_ushort(__float2half_rn(x)); }
#else
  // No branches, so that loops vectorise on every instruction set.
  TORCHOPT_FN static float load(uint16_t x) {
    uint32_t sign = uint32_t(x & 0x8000) << 16;
    uint32_t magnitude = x & 0x7fff;
    // A subnormal number is an integer times 2^-24. It must not become a subnormal float on the
    // way: torch.set_flush_denormal(True) makes the hardware take that for 0.
    uint32_t subnormal = bit_cast<uint32_t>(float(int32_t(magnitude)) * 0x1p-24f);
    uint32_t normal = (magnitude << 13) + (112u << 23);
    uint32_t finite = magnitude < 0x400 ? subnormal : normal;
    uint32_t special = 0x7f800000 | magnitude << 13;
    return bit_cast<float>(sign | (magnitude >= 0x7c00 ? special : finite));
  }
  TORCHOPT_FN static uint16_t store(float x) {
    uint32_t bits = bit_cast<uint32_t>(x);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    // Add a power of two whose last bit is the result's last bit: the hardware rounds the sum.
    uint32_t exponent = magnitude & 0x7f800000;
    uint32_t base = (exponent < 0x38800000 ? 0x38800000 : exponent) + (13u << 23);
    uint32_t sum = bit_cast<uint32_t>(bit_cast<float>(magnitude) + bit_cast<float>(base));
    uint32_t rounded = ((base - (13u << 23) - 0x38800000) >> 13) + (sum - base);
    uint32_t finite = rounded > 0x7c00 ? 0x7c00 : rounded;
    uint32_t result = magnitude > 0x7f800000 ? 0x7e00 : magnitude >= 0x47800000 ? 0x7c00 : finite;
    return uint16_t(sign | result);
  }
#endif
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
