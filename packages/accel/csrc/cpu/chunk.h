// The seam between the driver and the kernels. Every instruction set has a copy of the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"

namespace torchopt {

// Tensors are cut into pieces that stay in the second-level cache. At the end of smaller pieces the
// reads from memory would stall.
constexpr int64_t kChunk = 16384;

// Streamed outputs begin at multiples of this.
constexpr size_t kStreamAlignment = 64;

struct Chunk {
  const void* inputs[kMaxInputs];
  void* outputs[kMaxOutputs];
  int64_t size;
  const double* hyper;
  int64_t step;
  // Null if the learning rate is a hyperparameter.
  const double* lr;
  bool apply;
  // Bit r says that output r goes past the caches.
  unsigned streamed;
};

// Returns the cotangent of lr, or 0 where nobody asks for it.
using ChunkKernel = double (*)(const Chunk&);

struct RuleKernels {
  const char* name;
  int states;
  // The names of its own hyperparameters, with ", " between them.
  const char* hyper;
  ChunkKernel forward[kDtypes];
  ChunkKernel backward[kDtypes];
  ChunkKernel backward_with_lr[kDtypes];
};

struct KernelTable {
  // The names of the hyperparameters that precede every rule's own.
  const char* common;
  const RuleKernels* rules;
  int size;
};

namespace baseline {
KernelTable table();
}
#ifdef __x86_64__
namespace avx2 {
KernelTable table();
}
namespace avx512 {
KernelTable table();
}
#endif

}  // namespace torchopt
