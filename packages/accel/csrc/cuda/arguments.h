// What a launch passes to the kernels. A kernel argument holds the pointers of a whole list of
// tensors, so that a list needs no copy to the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"

namespace torchopt {
namespace {

constexpr int kThreads = 256;
// A list is cut into chunks of this many elements, which are distributed over the blocks.
constexpr int64_t kBlockChunk = 8192;
// The limit on the size of a kernel's arguments since CUDA 12.1, on sm_70 and later.
constexpr size_t kArgumentBytes = 32764;

constexpr int64_t chunks(int64_t size) { return (size + kBlockChunk - 1) / kBlockChunk; }

struct Scalars {
  double hyper[kMaxHyper];
  const int64_t* steps;
  const double* numbers;
  const double* lr;
  bool apply;
  // One sum per chunk of the launch, or null if the cotangent of the learning rate is not wanted.
  double* partials;
};

template <int kRoles>
struct Tensor {
  void* roles[kRoles];
  int64_t size;
  int32_t position;
  int32_t lr_index;
  int64_t first_chunk;
};

template <int kRoles>
struct Arguments {
  static constexpr int kTensors =
      int((kArgumentBytes - sizeof(Scalars) - 16) / sizeof(Tensor<kRoles>));
  Scalars scalars;
  int32_t count;
  int64_t chunks;
  Tensor<kRoles> tensors[kTensors];
};

// The chunks that belong to each learning rate: from first[i] up to first[i + 1].
template <int kRanges>
struct Ranges {
  int64_t first[kRanges + 1];
};

// `gather` takes two pointers beside the ranges.
constexpr int kMostRanges = int((kArgumentBytes - 16) / sizeof(int64_t)) - 1;

}  // namespace
}  // namespace torchopt
