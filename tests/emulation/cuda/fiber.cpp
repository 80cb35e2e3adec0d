#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <new>

// The sanitizers' runtimes have these; otherwise they are null.
extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* start, size_t bytes);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* start, size_t bytes);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_destroy_fiber(void* fiber);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* tag);
[[gnu::weak]] void __tsan_release(void* tag);
}

namespace emulation {
namespace {

constexpr size_t kPage = 64 << 10;
constexpr size_t kStack = 256 << 10;
constexpr unsigned kNoSync = 1;

// What runs, and what resumed it.
Fiber* running = nullptr;
void* resumer = nullptr;
void* resumer_fake_stack = nullptr;
const void* resumer_bottom = nullptr;
size_t resumer_size = 0;
void* resumer_thread = nullptr;

}  // namespace

// A context is what `switch_to` needs to go on: here a stack pointer, elsewhere a ucontext_t, which
// asks the system for its signal mask at every switch.
#if defined(__x86_64__) && !defined(EMULATION_PORTABLE)

extern "C" void emulation_switch(void** save, void* to);
asm(R"(
.pushsection .text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulation_switch, .-emulation_switch
.popsection
)");

namespace {

void switch_to(void*& save, void* to) { emulation_switch(&save, to); }

// The stack that emulation_switch expects: six registers, then the address to return to, and there
// the stack as after a call, an odd multiple of 8.
void* new_context(void*, char* stack, void (*begin)()) {
  void** top = reinterpret_cast<void**>(stack + kStack);
  top[-2] = reinterpret_cast<void*>(begin);
  return top - 8;
}

void free_context(void*) {}

}  // namespace

#else

namespace {

ucontext_t resumer_context;

void switch_to(void*& save, void* to) {
  if (!save) save = &resumer_context;
  swapcontext(static_cast<ucontext_t*>(save), static_cast<ucontext_t*>(to));
}

void* new_context(void* old, char* stack, void (*begin)()) {
  auto* context = old ? static_cast<ucontext_t*>(old) : new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStack;
  context->uc_link = nullptr;
  makecontext(context, begin, 0);
  return context;
}

void free_context(void* context) { delete static_cast<ucontext_t*>(context); }

}  // namespace

#endif

Fiber::Fiber() {
  // A page below the stack stops a stack that grows too large.
  void* memory = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kPage, PROT_NONE);
  stack_ = static_cast<char*>(memory) + kPage;
  if (__tsan_create_fiber) thread_ = __tsan_create_fiber(0);
}

Fiber::~Fiber() {
  if (__tsan_destroy_fiber) __tsan_destroy_fiber(thread_);
  free_context(context_);
  munmap(stack_ - kPage, kPage + kStack);
}

void Fiber::start(void (*entry)()) {
  // A fiber that was given up in the middle has left marks on its stack.
  allow(stack_, kStack);
  entry_ = entry;
  context_ = new_context(context_, stack_, begin);
}

void Fiber::begin() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &resumer_bottom, &resumer_size);
  running->entry_();
  abort();  // the entry has returned
}

void Fiber::resume() {
  running = this;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&resumer_fake_stack, stack_, kStack);
  if (__tsan_switch_to_fiber) {
    resumer_thread = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(thread_, kNoSync);
  }
  switch_to(resumer, context_);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(resumer_fake_stack, nullptr, nullptr);
}

void Fiber::leave(bool last) {
  Fiber& me = *running;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(last ? nullptr : &me.fake_stack_, resumer_bottom, resumer_size);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(resumer_thread, kNoSync);
  switch_to(me.context_, resumer);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(me.fake_stack_, &resumer_bottom, &resumer_size);
}

void release(void* tag) {
  if (__tsan_release) __tsan_release(tag);
}

void acquire(void* tag) {
  if (__tsan_acquire) __tsan_acquire(tag);
}

void forbid(void* start, size_t bytes) {
  if (__asan_poison_memory_region) __asan_poison_memory_region(start, bytes);
}

void allow(void* start, size_t bytes) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(start, bytes);
}

}  // namespace emulation
