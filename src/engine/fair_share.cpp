// SPDX-License-Identifier: MIT
#include "engine/fair_share.h"

#include <algorithm>
#include <limits>

namespace qwen3_mlx::engine {

void FairShare::enter(const std::string& user) {
  const auto known = accounts_.find(user);
  if (known != accounts_.end()) {
    ++known->second.num_sequences;
    return;
  }
  double least = std::numeric_limits<double>::max();
  for (const auto& [name, account] : accounts_) {
    least = std::min(least, account.service);
  }
  accounts_[user] = {accounts_.empty() ? 0.0 : least, 1};
}

void FairShare::leave(const std::string& user) {
  const auto account = accounts_.find(user);
  if (--account->second.num_sequences == 0) {
    accounts_.erase(account);
  }
}

void FairShare::charge(const std::string& user, double amount) {
  accounts_.at(user).service += amount;
}

double FairShare::service(const std::string& user) const {
  return accounts_.at(user).service;
}

} // namespace qwen3_mlx::engine
