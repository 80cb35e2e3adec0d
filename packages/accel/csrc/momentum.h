// The momentum buffer of SGD and RMSProp. Core's counterpart is the building block `trace`.
#pragma once

#include "numerics.h"

namespace torchopt {
namespace TORCHOPT_ISA {

// Reads the hyperparameters momentum, dampening and nesterov of the rule that it is part of.
template <class T>
struct Momentum {
  T decay, weight, direct, ahead;

  template <class Hyper>
  TORCHOPT_FN Momentum(const Hyper& hyper, int64_t step)
      : decay(T(hyper.momentum)),
        weight(T(step > 1 ? 1 - hyper.dampening : 1)),
        direct(T(hyper.nesterov != 0 ? 1 : 0)),
        ahead(T(hyper.nesterov != 0 ? hyper.momentum : 1)) {}

  TORCHOPT_FN void forward(T x, T buffer, T& d, T& next) const {
    next = weight * x + decay * buffer;
    d = direct != T(0) ? x + ahead * next : next;
  }

  // Turns the cotangents of d and next into the cotangents of x and buffer.
  TORCHOPT_FN void vjp(T dd, T dnext, T& dx, T& dbuffer) const {
    T total = dnext + ahead * dd;
    dx = weight * total + direct * dd;
    dbuffer = decay * total;
  }
};

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
