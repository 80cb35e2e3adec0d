#pragma once

#include "../hyper.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// State mu.
template <class T>
struct Lion {
  static constexpr int kStates = 1;
  TORCHOPT_HYPERPARAMETERS(beta1, beta2);
  Ema<T> ahead, average;

  TORCHOPT_FN Lion(const Hyper& hyper, int64_t) : ahead(hyper.beta1), average(hyper.beta2) {}

  TORCHOPT_FN void forward(T g, const T* s, T& d, T* t) const {
    d = sign_of(ahead(s[0], g));
    t[0] = average(s[0], g);
  }

  // The sign has the derivative 0.
  TORCHOPT_FN void vjp(T g, const T* s, T, const T* dt, T& d, T& dg, T* ds) const {
    d = sign_of(ahead(s[0], g));
    dg = average.weight * dt[0];
    ds[0] = average.decay * dt[0];
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
