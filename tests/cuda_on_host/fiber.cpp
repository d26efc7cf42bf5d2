#include "cuda_on_host/fiber.h"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cuda_on_host/race.h"
#include "cuda_on_host/sanitizers.h"

namespace moesaic::cuda_on_host {

namespace context = boost::context::detail;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kStackBytes = (kWithAsan || race::kWatched ? 64 : 16) * kPage;

}  // namespace

struct Fiber::Stack {
  std::byte* bottom = nullptr;  // behind a page that nobody may touch
  std::size_t bytes = 0;

  // Stacks begin at different places of a page, or all would want the same lines of the cache.
  explicit Stack(std::size_t number) : bytes(kStackBytes - number % 32 * 128) {
    void* const place = mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(place != MAP_FAILED, "no memory for the stacks of fibers");
    mprotect(place, kPage, PROT_NONE);
    bottom = static_cast<std::byte*>(place) + kPage;
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() { munmap(bottom - kPage, kPage + kStackBytes); }
};

struct Fiber::Stacks {
  std::vector<std::unique_ptr<Stack>> all;
  std::vector<Stack*> free;

  static Stacks& of_this_thread() {
    thread_local Stacks stacks;
    return stacks;
  }
  Stack* take() {
    if (free.empty()) {
      all.push_back(std::make_unique<Stack>(all.size()));
      return all.back().get();
    }
    Stack* const stack = free.back();
    free.pop_back();
    return stack;
  }
};

struct Fiber::Entry {
  static void run(context::transfer_t from) {
    auto& self = *static_cast<Fiber*>(from.data);
    enter_stack(nullptr, &self.caller_bottom_, &self.caller_bytes_);
    self.caller_ = from.fctx;
    self.body_(self.argument_);
    self.ended_ = true;
    leave_stack(nullptr, self.caller_bottom_, self.caller_bytes_);
    race::switch_to(self.race_caller_);
    context::jump_fcontext(self.caller_, nullptr);
  }
};

void Fiber::prepare(Body body, void* argument) {
  abandon();
  body_ = body;
  argument_ = argument;
  context_ = nullptr;
  ended_ = false;
}

void Fiber::resume() {
  if (stack_ == nullptr) {
    stack_ = Stacks::of_this_thread().take();
    context_ = context::make_fcontext(stack_->bottom + stack_->bytes, stack_->bytes, Entry::run);
    race_ = race::make_fiber();
  }
  race_caller_ = race::this_fiber();
  void* fake_stack = nullptr;
  leave_stack(&fake_stack, stack_->bottom, stack_->bytes);
  race::switch_to(race_);
  const context::transfer_t back = context::jump_fcontext(context_, this);
  enter_stack(fake_stack, nullptr, nullptr);
  context_ = back.fctx;
  if (ended_) {
    give_back_stack();
  }
}

void Fiber::suspend() {
  leave_stack(&fake_stack_, caller_bottom_, caller_bytes_);
  race::switch_to(race_caller_);
  const context::transfer_t from = context::jump_fcontext(caller_, nullptr);
  enter_stack(fake_stack_, &caller_bottom_, &caller_bytes_);
  caller_ = from.fctx;
}

void Fiber::abandon() {
  ended_ = true;
  if (stack_ != nullptr) {
    give_back_stack();
  }
}

void Fiber::give_back_stack() {
  allow(stack_->bottom, stack_->bytes);
  race::end_fiber(race_);
  Stacks::of_this_thread().free.push_back(stack_);
  stack_ = nullptr;
}

}  // namespace moesaic::cuda_on_host
