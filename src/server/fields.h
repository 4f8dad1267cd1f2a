// SPDX-License-Identifier: MIT
// Reads the fields of a request, strictly: what is there has the right type and
// lies in its range, or the error names it. Null counts as absent.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/json.h"

namespace qwen3_mlx::server {

class Fields {
 public:
  /// `object` must outlive this. Errors name fields "<prefix>.<key>".
  explicit Fields(const Json& object, std::string prefix = {});

  /// The value, or null when it is absent. Counts as read.
  const Json* find(std::string_view key);
  std::optional<bool> boolean(std::string_view key);
  std::optional<double> number(std::string_view key, double min, double max);
  std::optional<std::int64_t>
  integer(std::string_view key, std::int64_t min, std::int64_t max);
  std::optional<std::string> string(std::string_view key);
  /// An object.
  const Json* object(std::string_view key);
  /// An array.
  const Json* array(std::string_view key);

  /// The field is known and changes nothing here.
  void ignore(std::string_view key);
  /// Throws when the field is there, unless it has the value that changes
  /// nothing.
  void refuse(
      std::string_view key,
      const std::string& why,
      const std::vector<Json>& harmless = {});

  /// Names of fields that nothing has asked for.
  std::vector<std::string> unknown() const;
  std::string path_of(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, const std::string& why) const;

 private:
  const Json* object_;
  std::string prefix_;
  std::set<std::string, std::less<>> seen_;
};

/// "a string", "a number" ... for messages.
const char* kind_of(const Json& value);

} // namespace qwen3_mlx::server
