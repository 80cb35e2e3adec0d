// The seam between the driver and the kernels, of which every instruction set has a copy.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"

namespace torchopt {

// Tensors are cut into pieces that stay in the second-level cache; with smaller ones the reads
// from memory would stall at their ends.
constexpr int64_t kChunk = 16384;

// What is streamed past the caches begins at multiples of this.
constexpr size_t kStreamAlignment = 64;

struct Chunk {
  const void* inputs[12];
  void* outputs[6];
  int64_t size;
  const double* hyper;
  int64_t step;
  double lr;
  bool apply;
  // The outputs, by bit, that go past the caches.
  unsigned streamed;
};

// Returns the cotangent of lr, 0 where it is not asked for.
using ChunkKernel = double (*)(const Chunk&);

struct RuleKernels {
  const char* name;
  int states;
  ChunkKernel forward[kDtypes];
  ChunkKernel backward[kDtypes];
  ChunkKernel backward_with_lr[kDtypes];
};

struct KernelTable {
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
