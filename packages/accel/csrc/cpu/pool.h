#pragma once

#include <cstddef>

namespace torchopt {

// Memory for results. A freed block waits for the next step, whose results have the same sizes:
// touching new pages of the system for the first time takes longer than a kernel.
// Blocks are aligned to 64 bytes. Throws std::bad_alloc.
void* take_block(size_t bytes);
void give_block(void* block, size_t bytes) noexcept;

// The number of bytes that wait, and its limit.
size_t waiting_bytes();
constexpr size_t kMostWaiting = size_t(256) << 20;

}  // namespace torchopt
