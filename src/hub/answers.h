// SPDX-License-Identifier: MIT
// What the hub's answers mean. Nothing in them is trusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hub/http.h"
#include "hub/hub_error.h"
#include "hub/settings.h"

namespace qwen3_mlx::hub {

struct Listing {
  std::string commit;
  std::vector<std::string> files; ///< Safe relative paths.
};

/// What a file's bytes must be.
struct FileInfo {
  std::string etag; ///< SHA-256, or git's SHA-1 of small files, in hexadecimal.
  std::uint64_t n_bytes = 0;
};

/// Of the JSON that describes a revision of a repository. `what` names it in
/// messages. Throws HubError (server), also for paths that would leave the
/// snapshot.
Listing parse_listing(
    std::string_view body,
    const std::string& what,
    const std::string& endpoint);

/// Of the head of an answer for a file of `commit`. Throws HubError (server)
/// where size or hash are missing, or it comes from another commit.
FileInfo file_info_of(
    const HttpResponse& response,
    const std::string& what,
    const std::string& commit);

/// What an answer other than success means for `what`.
HubError failure_of(
    const HttpResponse& response,
    const std::string& what,
    const Settings& settings);

} // namespace qwen3_mlx::hub
