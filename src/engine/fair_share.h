// SPDX-License-Identifier: MIT
// How much service each user has had, so that the one with the least is next
// (the virtual token counter of "Fairness in Serving Large Language Models",
// Sheng et al. 2024).
#pragma once

#include <string>
#include <unordered_map>

namespace qwen3_mlx::engine {

/// Users count while they have sequences. One who comes back starts from the
/// least served of those present: waiting gains no credit, so nobody can save
/// up and then starve others.
class FairShare {
 public:
  void enter(const std::string& user);
  void leave(const std::string& user);
  /// `user` must be present.
  void charge(const std::string& user, double amount);
  double service(const std::string& user) const;

 private:
  struct Account {
    double service = 0;
    int num_sequences = 0;
  };
  std::unordered_map<std::string, Account> accounts_;
};

} // namespace qwen3_mlx::engine
