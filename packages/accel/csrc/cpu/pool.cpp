#include "pool.h"

#include <pthread.h>
#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>

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

// Lies at the start of a waiting block, in two lists from oldest to newest.
struct Waiting {
  size_t bytes;
  Waiting *older, *newer;                  // among all
  Waiting *older_of_size, *newer_of_size;  // among blocks of its size
};
static_assert(sizeof(Waiting) <= kLine, "the smallest block holds it");

struct Ends {
  Waiting *oldest = nullptr, *newest = nullptr;
};

template <Waiting* Waiting::* older, Waiting* Waiting::* newer>
void append(Ends& list, Waiting* block) {
  block->*older = list.newest;
  block->*newer = nullptr;
  (list.newest ? list.newest->*newer : list.oldest) = block;
  list.newest = block;
}

template <Waiting* Waiting::* older, Waiting* Waiting::* newer>
void remove(Ends& list, Waiting* block) {
  (block->*older ? block->*older->*newer : list.oldest) = block->*newer;
  (block->*newer ? block->*newer->*older : list.newest) = block->*older;
}

void free_from(Waiting* block) {
  while (block) {
    Waiting* next = block->newer;
    free(block);
    block = next;
  }
}

class Pool {
 public:
  // Returns null if no block of this size waits.
  void* take(size_t bytes) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto found = by_size_.find(bytes);
    if (found == by_size_.end()) return nullptr;
    // The caches may still hold the newest.
    Waiting* block = found->second.newest;
    detach(block);
    return block;
  }

  // Throws std::bad_alloc if the pool has no memory to note a new size.
  void give(void* memory, size_t bytes) {
    if (bytes > kMostWaiting) return free(memory);
    Waiting* outdated;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      Ends& same = by_size_[bytes];
      Waiting* block = new (memory) Waiting{bytes, nullptr, nullptr, nullptr, nullptr};
      append<&Waiting::older_of_size, &Waiting::newer_of_size>(same, block);
      append<&Waiting::older, &Waiting::newer>(all_, block);
      bytes_ += bytes;
      outdated = evict();
    }
    free_from(outdated);
  }

  size_t release() {
    Ends waiting;
    size_t bytes;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      std::swap(waiting, all_);
      bytes = std::exchange(bytes_, 0);
      by_size_.clear();
    }
    free_from(waiting.oldest);
    return bytes;
  }

  size_t bytes() {
    std::lock_guard<std::mutex> guard(mutex_);
    return bytes_;
  }

  std::mutex& mutex() { return mutex_; }

 private:
  void detach(Waiting* block) {
    auto same = by_size_.find(block->bytes);
    remove<&Waiting::older_of_size, &Waiting::newer_of_size>(same->second, block);
    // A program may use any number of sizes, each for a short time.
    if (!same->second.oldest) by_size_.erase(same);
    remove<&Waiting::older, &Waiting::newer>(all_, block);
    bytes_ -= block->bytes;
  }

  // Takes out the blocks that nobody has needed for longest until the limit holds. Returns the
  // first of them, for free_from: other threads must not wait for the system.
  Waiting* evict() {
    Waiting* outdated = nullptr;
    while (bytes_ > kMostWaiting) {
      Waiting* block = all_.oldest;
      detach(block);
      block->newer = outdated;
      outdated = block;
    }
    return outdated;
  }

  std::mutex mutex_;
  std::unordered_map<size_t, Ends> by_size_;
  Ends all_;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may be freed after static objects have been destroyed.
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

// Under the address sanitizer, blocks have their exact size and are never reused, so that the
// sanitizer detects accesses out of bounds and after the release.
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
    pool().give(block, rounded(bytes));
  } catch (const std::bad_alloc&) {
    free(block);
  }
}
#endif

size_t waiting_bytes() { return pool().bytes(); }

size_t release_waiting() {
  const size_t bytes = pool().release();
#ifdef __GLIBC__
  // glibc keeps freed memory for the process unless it is told otherwise.
  malloc_trim(0);
#endif
  return bytes;
}

}  // namespace torchopt
