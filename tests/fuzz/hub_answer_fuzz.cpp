// SPDX-License-Identifier: MIT
// What a hub may answer. The first byte chooses: the JSON that lists a
// repository's files, or a status and the headers of a file ("name: value"
// lines). Refused by an Error, or nothing leaves the cache: paths are relative
// and hashes plain digits.
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "hub/answers.h"
#include "hub/reference.h"

namespace {

using namespace qwen3_mlx::hub;

void check_listing(std::string_view body) {
  const auto listing = parse_listing(body, "org/name", "https://hub");
  if (!is_commit(listing.commit) ||
      !std::all_of(
          listing.files.begin(), listing.files.end(), [](const auto& file) {
            return is_safe_path(file);
          })) {
    std::abort();
  }
}

/// A terminal may show it.
void check_message(const HubError& error) {
  const std::string_view text(error.what());
  if (std::any_of(text.begin(), text.end(), [](unsigned char c) {
        return c < 32 || c == 127;
      })) {
    std::abort();
  }
}

HttpResponse head_of(int status, std::string_view text) {
  HttpResponse head{.status = status};
  while (!text.empty()) {
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (const auto at = line.find(": "); at != std::string_view::npos) {
      head.headers[std::string(line.substr(0, at))] = line.substr(at + 2);
    }
  }
  return head;
}

void check_head(const HttpResponse& head) {
  check_message(failure_of(head, "org/name", Settings{}));
  const auto info = file_info_of(head, "org/name file", std::string(40, 'a'));
  const bool is_plain =
      info.etag.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!is_plain || (info.etag.size() != 40 && info.etag.size() != 64)) {
    std::abort();
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  if (n < 2) {
    return 0;
  }
  const std::string_view text(reinterpret_cast<const char*>(data), n);
  try {
    if (data[0] % 2 == 0) {
      check_listing(text.substr(1));
    } else {
      check_head(head_of(200 + data[1], text.substr(2)));
    }
  } catch (const HubError& error) {
    check_message(error);
  }
  return 0;
}
