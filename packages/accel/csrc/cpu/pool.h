#pragma once

#include <cstddef>

namespace torchopt {

// Memory for results. A freed block waits for the next step, whose results have the same sizes: the
// first access to new pages of memory takes longer than a kernel. Where more than kMostWaiting
// would wait, the blocks that have waited longest are given back to the system. Blocks are aligned
// to 64 bytes. Throws std::bad_alloc.
void* take_block(size_t bytes);
void give_block(void* block, size_t bytes) noexcept;

// The number of bytes in waiting blocks, and its limit.
size_t waiting_bytes();
constexpr size_t kMostWaiting = size_t(256) << 20;

// Gives all waiting blocks back to the system. Returns the number of their bytes.
size_t release_waiting();

}  // namespace torchopt
