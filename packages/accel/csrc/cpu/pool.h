#pragma once

#include <cstddef>

namespace torchopt {

// Memory for results. A freed block waits for the next step, whose results have the same sizes:
// to touch pages that are new from the system takes longer than a kernel does.
// Blocks are aligned to 64 bytes. Throws std::bad_alloc.
void* take_block(size_t bytes);
void give_block(void* block, size_t bytes) noexcept;

// The bytes that wait, and the most that may.
size_t waiting_bytes();
constexpr size_t kMostWaiting = size_t(256) << 20;

}  // namespace torchopt
