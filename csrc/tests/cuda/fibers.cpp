#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

namespace {

constexpr size_t kStackBytes = 256 << 10;

struct Fiber {
  const void* stack = nullptr;  // what lies outside of fibers has the stack that it came with
  size_t stack_bytes = 0;
  const std::function<void()>* body = nullptr;
#if defined(__x86_64__)
  void* context = nullptr;
#else
  ucontext_t context;
#endif
  void* shadow = nullptr;  // of the address sanitizer
};

Fiber fibers[kMostFibers];
Fiber outside;
Fiber* running = &outside;

#if defined(__x86_64__)
extern "C" void modnas_fast_emulation_switch(void** from, void* to);
asm(R"(
.text
.globl modnas_fast_emulation_switch
modnas_fast_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

void arrived(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  const void* stack;
  size_t bytes;
  __sanitizer_finish_switch_fiber(fiber.shadow, &stack, &bytes);
  if (&fiber != &outside) {
    outside.stack = stack;
    outside.stack_bytes = bytes;
  }
#else
  (void)fiber;
#endif
}

void switch_to(Fiber& to) {
  Fiber& from = *running;
  running = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.shadow, to.stack, to.stack_bytes);
#endif
#if defined(__x86_64__)
  modnas_fast_emulation_switch(&from.context, to.context);
#else
  swapcontext(&from.context, &to.context);
#endif
  arrived(from);
}

// A fiber never ends: when its body has, it waits for the next one.
void run_bodies() {
  Fiber& self = *running;
  arrived(self);
  while (true) {
    (*self.body)();
    switch_to(outside);
  }
}

void make(Fiber& fiber) {
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::fputs("no memory for the stacks of emulated threads\n", stderr);
    std::abort();
  }
  fiber.stack = memory;
  fiber.stack_bytes = kStackBytes;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(static_cast<char*>(memory) + kStackBytes);
  *--top = nullptr;  // where a caller's address would be: keeps the stack aligned as the ABI wants it
  *--top = reinterpret_cast<void*>(&run_bodies);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.context = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = memory;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, &run_bodies, 0);
#endif
}

}  // namespace

void prepare_fiber(int index, const std::function<void()>* body) {
  Fiber& fiber = fibers[index];
  if (fiber.stack == nullptr) make(fiber);
  fiber.body = body;
}

void resume_fiber(int index) { switch_to(fibers[index]); }
void suspend_fiber() { switch_to(outside); }

}  // namespace emulation
