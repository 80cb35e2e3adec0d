// The momentum buffer of SGD and RMSProp; core's is torchopt/blocks/trace.py.
#pragma once

#include "numerics.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// Hyperparameters momentum, dampening, nesterov.
template <class T>
struct Momentum {
  T decay, weight, direct, ahead;

  TORCHOPT_FN Momentum(const double* hyper, int64_t step)
      : decay(T(hyper[0])),
        weight(T(step > 1 ? 1 - hyper[1] : 1)),
        direct(T(hyper[2] != 0 ? 1 : 0)),
        ahead(T(hyper[2] != 0 ? hyper[0] : 1)) {}

  TORCHOPT_FN void forward(T x, T buffer, T& d, T& next) const {
    next = weight * x + decay * buffer;
    d = direct != T(0) ? x + ahead * next : next;
  }

  // Cotangents of x and buffer from those of d and next.
  TORCHOPT_FN void vjp(T dd, T dnext, T& dx, T& dbuffer) const {
    T total = dnext + ahead * dd;
    dx = weight * total + direct * dd;
    dbuffer = decay * total;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
