// A grid of CUDA threads on one CPU thread: blocks one after the other in random order, the threads
// of a block as fibers in random order. A program that is not valid raises std::runtime_error.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
extern Index thread_index, block_index, grid_size;

// All threads of the block wait, at the same line.
void wait_for_block(int line);

// All 32 threads of a warp wait, at the same line, and each gets the bits of the thread `delta`
// further on, or its own bits if there is none.
uint64_t exchange(uint32_t mask, uint64_t bits, unsigned delta, int line);

template <class T>
T shuffle_down(uint32_t mask, T value, unsigned delta, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves 8 bytes at most");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, delta, line);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// The block's variable that is declared at this line. It holds garbage at first.
void* shared_bytes(const char* file, int line, size_t bytes, size_t alignment);

template <class T>
T& shared(const char* file, int line, size_t alignment) {
  return *static_cast<T*>(shared_bytes(file, line, sizeof(T), alignment));
}

struct Launch {
  int64_t blocks, threads;
  size_t dynamic_shared;
  void* stream;
  size_t argument_bytes;
  std::function<void()> body;
};

void run_grid(const Launch& launch);

// Seeds the order of threads and blocks.
void set_order(uint32_t seed);

struct Counts {
  int64_t launches, blocks, barriers;
};

// Returns what ran since the last call.
Counts take_counts();

}  // namespace emulation
