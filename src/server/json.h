// SPDX-License-Identifier: MIT
// JSON of requests and responses.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace qwen3_mlx::server {

using Json = nlohmann::ordered_json;

/// The JSON object of a request's body. Throws ApiError (400) for what is no
/// UTF-8, no JSON, no object, or nested deeper than 64 levels.
Json parse_body(std::string_view body);

/// Compact; bytes that are not UTF-8 become U+FFFD.
std::string to_text(const Json& json);

} // namespace qwen3_mlx::server
