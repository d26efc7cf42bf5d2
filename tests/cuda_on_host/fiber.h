#pragma once

#include <cstddef>
#include <functional>

namespace moesaic::cuda_on_host {

/// A function with its own stack, which the caller's thread enters and leaves at will. Its stack
/// is taken at the first resume() from those that ended, and given back when the function ends.
class Fiber {
 public:
  using Body = void (*)(void* argument);

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() { abandon(); }

  void prepare(Body body, void* argument);
  /// Until it suspends itself or ends.
  void resume();
  /// Called within: back to who resumed it.
  void suspend();
  bool ended() const { return ended_; }
  /// Forgets a function that has not ended; no destructor of it runs.
  void abandon();

 private:
  struct Stack;
  struct Stacks;
  struct Entry;
  void give_back_stack();

  Body body_ = nullptr;
  void* argument_ = nullptr;
  Stack* stack_ = nullptr;
  void* context_ = nullptr;  // where it goes on
  void* caller_ = nullptr;   // where its caller goes on
  void* race_ = nullptr;
  void* race_caller_ = nullptr;
  void* fake_stack_ = nullptr;
  const void* caller_bottom_ = nullptr;
  std::size_t caller_bytes_ = 0;
  bool ended_ = true;
};

}  // namespace moesaic::cuda_on_host
