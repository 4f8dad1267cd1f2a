// SPDX-License-Identifier: MIT
#include "hub/answers.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "hub/digest.h"
#include "hub/reference.h"

namespace qwen3_mlx::hub {
namespace {

constexpr std::size_t max_files = 1'000'000;
constexpr int max_depth = 64;
constexpr std::uint64_t max_file_bytes = std::uint64_t{1} << 50;

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} ||
      end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// Retry-After in seconds, or the "t" of RateLimit ('"api";r=0;t=55').
std::optional<std::chrono::seconds>
asked_to_wait(const HttpResponse& response) {
  auto seconds = number(response.header("retry-after"));
  const auto limit = response.header("ratelimit");
  const auto at = limit.find(";t=");
  if (!seconds && at != std::string::npos) {
    const auto text = std::string_view(limit).substr(at + 3);
    seconds = number(text.substr(0, text.find_first_of(";, ")));
  }
  if (!seconds) {
    return std::nullopt;
  }
  constexpr std::uint64_t year = 366 * 86'400;
  return std::chrono::seconds(std::min(*seconds, year));
}

/// The beginning of a header, fit for a message: on one line, and nothing that
/// a terminal would obey.
std::string printable(const std::string& header, std::size_t max_bytes) {
  auto text = header.substr(0, max_bytes);
  std::replace_if(
      text.begin(),
      text.end(),
      [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; },
      ' ');
  return text;
}

/// The server's own words.
std::string server_message(const HttpResponse& response) {
  const auto text = printable(response.header("x-error-message"), 300);
  return text.empty() ? text : " (the server says: " + text + ")";
}

/// Without quotes and the mark of weak ones.
std::string normalized_etag(std::string etag) {
  if (etag.starts_with("W/")) {
    etag.erase(0, 2);
  }
  std::erase(etag, '"');
  return etag;
}

} // namespace

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

Listing parse_listing(
    std::string_view body,
    const std::string& what,
    const std::string& endpoint) {
  const auto wrong = [&](const std::string& field) {
    return HubError(
        Fault::server,
        what + ": " + endpoint + " answers without a usable \"" + field +
            "\"; is HF_ENDPOINT a model hub?");
  };
  // Deep nesting would cost far more memory than the text has.
  const auto guard = [&](int depth, nlohmann::json::parse_event_t, auto&) {
    if (depth > max_depth) {
      throw wrong("{");
    }
    return true;
  };
  const auto json =
      nlohmann::json::parse(body, guard, /* allow_exceptions */ false);
  if (!json.is_object()) {
    throw wrong("{");
  }
  const auto sha = json.find("sha");
  const auto siblings = json.find("siblings");
  if (sha == json.end() || !sha->is_string() ||
      !is_commit(sha->get_ref<const std::string&>())) {
    throw wrong("sha");
  }
  if (siblings == json.end() || !siblings->is_array() ||
      siblings->size() > max_files) {
    throw wrong("siblings");
  }
  Listing listing{.commit = sha->get<std::string>()};
  for (const auto& sibling : *siblings) {
    if (!sibling.is_object() || !sibling.contains("rfilename") ||
        !sibling["rfilename"].is_string()) {
      throw wrong("rfilename");
    }
    const auto& file = sibling["rfilename"].get_ref<const std::string&>();
    if (!is_safe_path(file)) {
      throw HubError(
          Fault::server,
          what + ": the server names a file outside of the repository");
    }
    listing.files.push_back(file);
  }
  return listing;
}

FileInfo file_info_of(
    const HttpResponse& response,
    const std::string& what,
    const std::string& commit) {
  auto etag = normalized_etag(response.header("x-linked-etag"));
  if (etag.empty()) {
    etag = normalized_etag(response.header("etag"));
  }
  auto size = number(response.header("x-linked-size"));
  if (!size && response.status == 200) {
    size = number(response.header("content-length"));
  }
  const auto from = response.header("x-repo-commit");
  if (!from.empty() && from != commit) {
    throw HubError(
        Fault::server,
        what + ": comes from commit " + printable(from, 64) + ", expected " +
            commit);
  }
  if (!size || *size > max_file_bytes) {
    throw HubError(Fault::server, what + ": the server gives no size");
  }
  if (digest_of_etag(etag, *size) == nullptr) {
    throw HubError(
        Fault::server,
        what + ": the ETag \"" + printable(etag, 80) +
            "\" is neither a SHA-256 nor git's SHA-1, so that the file "
            "cannot be checked");
  }
  return {.etag = etag, .n_bytes = *size};
}

HubError failure_of(
    const HttpResponse& response,
    const std::string& what,
    const Settings& settings) {
  const int status = response.status;
  const auto code = response.header("x-error-code");
  const auto said = server_message(response);
  const auto at = what + ": HTTP status " + std::to_string(status) + " from " +
      settings.endpoint;
  if (code == "GatedRepo") {
    return {
        Fault::gated,
        what + ": access is restricted; accept the licence on " +
            settings.endpoint + "/" + what.substr(0, what.find_first_of("@ ")) +
            " and set HF_TOKEN to a token of that account" + said};
  }
  if (status == 404 || code == "RepoNotFound" || code == "RevisionNotFound" ||
      code == "EntryNotFound") {
    const auto missing = code == "RevisionNotFound" ? "revision"
        : code == "EntryNotFound"                   ? "file"
                                                    : "repository";
    return {
        Fault::not_found,
        what + ": no such " + missing + " on " + settings.endpoint +
            (status == 401 ? "; if it is private, set HF_TOKEN" : "") + said};
  }
  if (status == 401 || status == 403) {
    const auto cure = settings.token.empty()
        ? "; set HF_TOKEN to a token that may read it, and accept the "
          "licence if it asks for one"
        : "; the token in HF_TOKEN may not read it: accept the licence on "
          "the model's page, or use another token";
    return {
        status == 401 ? Fault::unauthorized : Fault::gated, at + cure + said};
  }
  if (status == 429) {
    const auto wait = asked_to_wait(response);
    return {
        Fault::rate_limited,
        what + ": too many requests to " + settings.endpoint +
            (wait ? ", which asks to wait " + std::to_string(wait->count()) +
                     " s"
                  : "; try again later") +
            (settings.token.empty() ? "; a token in HF_TOKEN has higher limits"
                                    : "") +
            said,
        wait};
  }
  return {Fault::server, at + said, asked_to_wait(response)};
}

} // namespace qwen3_mlx::hub
