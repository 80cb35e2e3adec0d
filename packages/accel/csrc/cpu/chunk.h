// The interface between the driver and the kernels, which exist once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"

namespace torchopt {

// Tensors are cut into pieces that fit into the second-level cache. Smaller pieces are slower,
// because reads from memory stall at the end of each piece.
constexpr int64_t kChunk = 16384;

// A step in place reads and writes every element once, so that its pieces may be longer. With 4
// million elements in one thread, this length takes a tenth less time than the other.
constexpr int64_t kLongChunk = 16 * kChunk;

// Streamed outputs begin at multiples of this.
constexpr size_t kStreamAlignment = 64;

struct Chunk {
  const void* inputs[kMaxInputs];
  void* outputs[kMaxOutputs];
  int64_t size;
  const double* hyper;
  int64_t step;
  double number;
  // Null if the learning rate is a hyperparameter.
  const double* lr;
  bool apply;
  // If bit r is set, output r bypasses the caches.
  unsigned streamed;
};

// Returns the cotangent of lr, or 0 if it is not wanted.
using ChunkKernel = double (*)(const Chunk&);

struct RuleKernels {
  const char* name;
  int states;
  // The names of the rule's own hyperparameters, separated by ", ".
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
#ifdef TORCHOPT_X86
namespace avx2 {
KernelTable table();
}
namespace avx512 {
KernelTable table();
}
#endif

}  // namespace torchopt
