// Threads of control that switch only where they say so.
#pragma once

#include <cstddef>

namespace emulation {

// One fiber runs at a time: the one that was resumed last, until it leaves. The address and the
// thread sanitizer are told of every switch if they are there.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Lets the next `resume` call `entry`, which must not return but leave for good.
  void start(void (*entry)());
  // Runs the fiber until it leaves.
  void resume();
  // Goes back from the fiber that runs to where it was resumed; for good with `last`.
  static void leave(bool last);

 private:
  static void begin();

  char* stack_;
  void* context_ = nullptr;
  void (*entry_)() = nullptr;
  void* fake_stack_ = nullptr;  // the address sanitizer's
  void* thread_ = nullptr;      // the thread sanitizer's
};

// An order that the thread sanitizer is to assume: what happened before `release` of a tag has
// happened before what follows `acquire` of it. Switches of fibers order nothing.
void release(void* tag);
void acquire(void* tag);

// Memory that must not be accessed, and may be again, where the address sanitizer is there.
void forbid(void* start, size_t bytes);
void allow(void* start, size_t bytes);

}  // namespace emulation
