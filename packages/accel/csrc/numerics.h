// The numerical building blocks that rules share. torchopt/authoring/numerics.py is core's
// counterpart.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define TORCHOPT_FN __host__ __device__ __forceinline__
#else
#define TORCHOPT_FN inline __attribute__((always_inline))
#endif

// Kernels of different instruction sets must not share inline functions: the linker would keep
// one copy, and run AVX-512 on a machine without it.
#ifndef TORCHOPT_ISA
#define TORCHOPT_ISA host
#endif

namespace torchopt {
namespace TORCHOPT_ISA {

TORCHOPT_FN float square_root(float x) { return sqrtf(x); }
TORCHOPT_FN double square_root(double x) { return sqrt(x); }
TORCHOPT_FN float magnitude(float x) { return fabsf(x); }
TORCHOPT_FN double magnitude(double x) { return fabs(x); }

// 1, 0 or -1; 0 also for NaN, as in torch.
template <class T>
TORCHOPT_FN T sign_of(T x) {
  return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0);
}

// 1 - rate^exponent: a bias correction divides by it. Right to the last digits also where the power
// is near 1. Unlike pow, its functions are the same in every glibc, so a wheel runs with older
// ones.
TORCHOPT_FN double one_minus_power(double rate, double exponent) {
  return -expm1(exponent * log1p(rate - 1));
}

// The length of a state array. C++ has no arrays of length 0, so a rule without state gets 1.
TORCHOPT_FN constexpr int slots(int states) { return states > 0 ? states : 1; }

// torch.lerp has the same two branches, which differ at infinity.
template <class T>
TORCHOPT_FN T interpolate(T from, T to, T weight) {
  T difference = to - from;
  return weight < T(0.5) ? from + weight * difference : to - difference * (T(1) - weight);
}

// Exponential moving average.
template <class T>
struct Ema {
  T decay, weight;

  TORCHOPT_FN explicit Ema(double rate) : decay(T(rate)), weight(T(1 - rate)) {}

  TORCHOPT_FN T operator()(T old, T value) const { return interpolate(old, value, weight); }
  TORCHOPT_FN T of_square(T old, T value) const { return old * decay + weight * value * value; }
};

// sqrt(x + eps_root). With eps_root = 0 the argument has a floor, below which the derivative is 0.
template <class T>
struct SafeRoot {
  T eps_root, floor;
  bool smooth;

  TORCHOPT_FN explicit SafeRoot(double eps)
      : eps_root(T(eps)), floor(sizeof(T) == 8 ? T(1e-150) : T(2e-38)), smooth(eps != 0) {}

  TORCHOPT_FN T argument(T x) const { return x + eps_root; }
  TORCHOPT_FN T value(T x) const {
    T y = argument(x);
    return square_root(y < floor && !smooth ? floor : y);
  }
  TORCHOPT_FN T derivative(T x, T root) const {
    return argument(x) >= floor || smooth ? T(0.5) / root : T(0);
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
