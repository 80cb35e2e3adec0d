// Hyperparameters travel as doubles, in the order in which a rule declares their names. Python
// learns the names from the compiled module and passes each number by name; functors read fields.
#pragma once

#include <cstring>
#include <type_traits>

#include "numerics.h"

// Declares, from one list of names, the fields that a functor reads and what Python is told.
#define TORCHOPT_HYPERPARAMETERS(...) \
  struct Hyper {                      \
    double __VA_ARGS__;               \
  };                                  \
  static constexpr const char* kHyperNames = #__VA_ARGS__

#define TORCHOPT_NO_HYPERPARAMETERS \
  struct Hyper {};                  \
  static constexpr const char* kHyperNames = ""

namespace torchopt {
namespace TORCHOPT_ISA {

template <class Hyper>
constexpr int kNumbers = std::is_empty<Hyper>::value ? 0 : int(sizeof(Hyper) / sizeof(double));

template <class Hyper>
TORCHOPT_FN Hyper read_hyper(const double* numbers) {
  static_assert(std::is_trivially_copyable<Hyper>::value, "hyperparameters are plain doubles");
  Hyper hyper{};
  memcpy(&hyper, numbers, kNumbers<Hyper> * sizeof(double));
  return hyper;
}

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
