// A step that writes parameters and states where they lie, taken again and again.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "problem.h"
#include "tensors.h"

namespace torchopt {

// The memory for addresses is kept from one step to the next.
class InPlace : public Problem {
 public:
  // Leaf i has its tensors, and its step count, at positions[i]. Throws std::invalid_argument if
  // the numbers do not make a problem.
  InPlace(int rule, int dtype, bool on_cpu, int device, std::vector<double> hyper,
          std::vector<int64_t> positions);

  // Reads the lists of gradients, parameters and states, which have an entry at every position.
  // None stands for a gradient that is absent, whose leaf is left alone. Returns the number of
  // gradients, or -1 if one launch can't take the tensors: unless all are of one of the types, not
  // of a subtype, and of the right dtype and device; dense, and with the same shape and strides
  // within a leaf; and share no memory. Does not see torch's bit for negation.
  int read(nanobind::tuple types, nanobind::list roles);

  // Sets the addresses of the scalars; 0 for what there is none of.
  void take(uintptr_t steps, uintptr_t numbers, uintptr_t lr, int64_t lr_stride) {
    this->steps = steps;
    this->numbers = numbers;
    this->lr = lr;
    this->lr_stride = lr_stride;
  }

 private:
  bool on_cpu_;
  int device_;
  Py_ssize_t last_ = -1;
  std::vector<Range> ranges_;
};

}  // namespace torchopt
