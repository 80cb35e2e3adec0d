#include "pool.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace torchopt {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t(2) << 20;

size_t rounded(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

void* from_system(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, bytes >= kHugePage ? kHugePage : kLine, bytes) != 0)
    throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // A hint. If the system ignores it, pages are small.
  if (bytes >= kHugePage) madvise(block, bytes, MADV_HUGEPAGE);
#endif
  return block;
}

class Pool {
 public:
  void* take(size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto found = waiting_.find(bytes);
    if (found == waiting_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    bytes_ -= bytes;
    return block;
  }

  // Returns false if the pool refuses the block.
  bool give(void* block, size_t bytes) {
    if (bytes > kMostWaiting) return false;
    std::lock_guard<std::mutex> guard(mutex_);
    // The waiting blocks may have sizes that nobody needs any more, so all of them make room.
    if (bytes_ + bytes > kMostWaiting) clear();
    waiting_[bytes].push_back(block);
    bytes_ += bytes;
    return true;
  }

  size_t bytes() {
    std::lock_guard<std::mutex> guard(mutex_);
    return bytes_;
  }

  std::mutex& mutex() { return mutex_; }

 private:
  void clear() {
    for (auto& entry : waiting_)
      for (void* block : entry.second) free(block);
    waiting_.clear();
    bytes_ = 0;
  }

  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> waiting_;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may be freed after all static objects are.
Pool& pool() {
  static Pool* only = [] {
    Pool* made = new Pool;
    // A child of fork() must not inherit a mutex that another thread holds.
    pthread_atfork([] { pool().mutex().lock(); }, [] { pool().mutex().unlock(); },
                   [] { pool().mutex().unlock(); });
    return made;
  }();
  return *only;
}

}  // namespace

// Under the address sanitizer every block comes from the system, in its true size, and goes back to
// it, so that the sanitizer sees reads and writes beside the block.
#ifdef __SANITIZE_ADDRESS__
void* take_block(size_t bytes) { return from_system(bytes); }
void give_block(void* block, size_t) noexcept { free(block); }
#else
void* take_block(size_t bytes) {
  void* block = pool().take(rounded(bytes));
  return block ? block : from_system(rounded(bytes));
}

void give_block(void* block, size_t bytes) noexcept {
  try {
    if (pool().give(block, rounded(bytes))) return;
  } catch (const std::bad_alloc&) {
  }
  free(block);
}
#endif

size_t waiting_bytes() { return pool().bytes(); }

}  // namespace torchopt
