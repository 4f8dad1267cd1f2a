// SPDX-License-Identifier: MIT
// The one way into the engine's thread: messages from any thread, taken all at
// once by its owner, who sleeps while there are none.
#pragma once

#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

namespace qwen3_mlx::engine {

template <class Message>
class Mailbox {
 public:
  void post(Message message) {
    {
      const std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message));
    }
    posted_.notify_one();
  }
  /// All messages; at once, or when there are some.
  std::vector<Message> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }
  std::vector<Message> wait() {
    std::unique_lock lock(mutex_);
    posted_.wait(lock, [this] { return !messages_.empty(); });
    return std::exchange(messages_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable posted_;
  std::vector<Message> messages_; // guarded by mutex_
};

} // namespace qwen3_mlx::engine
