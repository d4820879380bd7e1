// One CUDA thread as a fiber: a stack of its own and a switch that costs a few nanoseconds.
//
// On x86-64 the switch is twenty instructions of our own; elsewhere, or with SIMT_UCONTEXT
// (ThreadSanitizer understands that one), it is swapcontext, about ten times slower.
// AddressSanitizer is told of every switch.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace simt {

// Where a flow of control stands while it does not run.
struct Context {
#ifdef SIMT_UCONTEXT
  ucontext_t ucontext;
#else
  void* stack_pointer = nullptr;
#endif
  const void* stack_bottom = nullptr;  // for AddressSanitizer; null: the operating system's stack
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

// A stack with a guard page below it; released by the destructor.
class Stack {
 public:
  Stack();
  ~Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  char* bottom() const { return bottom_; }
  static constexpr size_t kBytes = 256 << 10;

 private:
  char* mapping_;
  char* bottom_;
};

// Makes `context` start at `entry` on `stack` when it is first switched to. `entry` must never
// return.
void prepare(Context& context, const Stack& stack, void (*entry)());

// Suspends the running flow into `from` and continues `to`; `last` when `from` will never run
// again.
void switch_context(Context& from, Context& to, bool last = false);

// The first thing a new flow does.
void entered();

}  // namespace simt
