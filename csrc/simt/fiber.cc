#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <mutex>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

namespace {

thread_local Context* previous = nullptr;  // who was left by the switch that is now under way

void leave(Context& from, Context& to, bool last) {
  previous = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack_bottom,
                                 to.stack_bytes);
#else
  (void)to;
  (void)last;
#endif
}

void arrive(void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  // The stack that was left is reported back: that is how the operating system's own stack becomes
  // known.
  __sanitizer_finish_switch_fiber(fake_stack, &previous->stack_bottom, &previous->stack_bytes);
#else
  (void)fake_stack;
#endif
}

// A thread dropped where it stood leaves its frames' red zones marked; the next use of the memory
// must not meet them.
void forget_frames(const Stack& stack) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack.bottom(), Stack::kBytes);
#else
  (void)stack;
#endif
}

size_t guard_bytes() {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return page;
}

size_t mapping_bytes() { return Stack::kBytes + guard_bytes(); }

// Memory of stacks that are gone, for those to come: every launch needs hundreds, and would spend
// more time on having them mapped and zeroed than in its kernel.
class Mappings {
 public:
  Mappings() { free_.reserve(kMost); }  // give() is called by destructors
  ~Mappings() {
    for (char* mapping : free_) munmap(mapping, mapping_bytes());
  }

  char* take() {
    {
      std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        char* const mapping = free_.back();
        free_.pop_back();
        return mapping;
      }
    }
    void* mapping =
        mmap(nullptr, mapping_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    mprotect(mapping, guard_bytes(), PROT_NONE);
    return static_cast<char*>(mapping);
  }

  void give(char* mapping) {
    {
      std::lock_guard lock(mutex_);
      if (free_.size() < kMost) {
        free_.push_back(mapping);
        return;
      }
    }
    munmap(mapping, mapping_bytes());
  }

 private:
  static constexpr size_t kMost = 4096;  // of which a few pages each were ever touched
  std::mutex mutex_;
  std::vector<char*> free_;
};

Mappings& mappings() {
  static Mappings all;
  return all;
}

}  // namespace

Stack::Stack() : mapping_(mappings().take()), bottom_(mapping_ + guard_bytes()) {}

Stack::~Stack() {
  forget_frames(*this);
  mappings().give(mapping_);
}

void entered() { arrive(nullptr); }

#ifdef SIMT_UCONTEXT

void prepare(Context& context, const Stack& stack, void (*entry)()) {
  forget_frames(stack);
  getcontext(&context.ucontext);
  context.ucontext.uc_stack.ss_sp = stack.bottom();
  context.ucontext.uc_stack.ss_size = Stack::kBytes;
  context.ucontext.uc_link = nullptr;
  makecontext(&context.ucontext, entry, 0);
  context.stack_bottom = stack.bottom();
  context.stack_bytes = Stack::kBytes;
}

void switch_context(Context& from, Context& to, bool last) {
  leave(from, to, last);
  swapcontext(&from.ucontext, &to.ucontext);
  arrive(from.fake_stack);
}

#else

// Saves the callee-saved registers on the current stack, exchanges stack pointers, restores the
// other's.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.type simt_switch,@function
simt_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size simt_switch,.-simt_switch
)");

void prepare(Context& context, const Stack& stack, void (*entry)()) {
  forget_frames(stack);
  void** top = reinterpret_cast<void**>(stack.bottom() + Stack::kBytes - 64);
  *--top = nullptr;                         // a return address for entry, which never returns
  *--top = reinterpret_cast<void*>(entry);  // where the first switch's `ret` goes
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack_pointer = top;
  context.stack_bottom = stack.bottom();
  context.stack_bytes = Stack::kBytes;
}

void switch_context(Context& from, Context& to, bool last) {
  leave(from, to, last);
  simt_switch(&from.stack_pointer, to.stack_pointer);
  arrive(from.fake_stack);
}

#endif

}  // namespace simt
