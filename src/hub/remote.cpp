// SPDX-License-Identifier: MIT
#include "hub/remote.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "hub/digest.h"

namespace qwen3_mlx::hub {
namespace {

constexpr std::size_t max_listing_bytes = 64 << 20;
constexpr std::size_t max_files = 1'000'000;

/// Percent-encodes all but what RFC 3986 leaves alone, and `also`.
std::string escaped(std::string_view text, std::string_view also = "") {
  constexpr std::string_view digits = "0123456789ABCDEF";
  constexpr std::string_view plain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
  std::string result;
  for (const char c : text) {
    if (plain.find(c) != std::string_view::npos ||
        also.find(c) != std::string_view::npos) {
      result += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      result += '%';
      result += digits[byte >> 4];
      result += digits[byte & 15];
    }
  }
  return result;
}

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

/// The server's own words, on one line.
std::string server_message(const HttpResponse& response) {
  auto text = response.header("x-error-message").substr(0, 300);
  std::replace_if(
      text.begin(),
      text.end(),
      [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; },
      ' ');
  return text.empty() ? text : " (the server says: " + text + ")";
}

/// What an answer other than success means for `what`.
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

/// Without quotes and the mark of weak ones.
std::string normalized_etag(std::string etag) {
  if (etag.starts_with("W/")) {
    etag.erase(0, 2);
  }
  std::erase(etag, '"');
  return etag;
}

} // namespace

void Retries::wait_after(const HubError& failure) {
  const bool may_pass = failure.fault() == Fault::network ||
      failure.fault() == Fault::server ||
      failure.fault() == Fault::rate_limited;
  if (!may_pass || n_failures_ >= settings_.max_retries) {
    throw failure;
  }
  constexpr std::chrono::milliseconds longest_delay{20'000};
  const auto delay = std::min<std::chrono::milliseconds>(
      settings_.first_delay * (1 << std::min(n_failures_, 10)), longest_delay);
  const std::chrono::milliseconds wait = failure.retry_after()
      ? std::chrono::milliseconds(*failure.retry_after())
      : delay;
  if (waited_ + wait > settings_.max_wait) {
    throw failure;
  }
  waited_ += wait;
  ++n_failures_;
  const auto end = std::chrono::steady_clock::now() + wait;
  while (std::chrono::steady_clock::now() < end) {
    if (cancelled_ && cancelled_()) {
      throw HubError(Fault::cancelled, "interrupted");
    }
    std::this_thread::sleep_for(std::min<std::chrono::milliseconds>(
        wait, std::chrono::milliseconds(50)));
  }
}

Remote::Remote(const Settings& settings, Cancelled cancelled)
    : settings_(settings), cancelled_(std::move(cancelled)),
      client_(settings.connect_timeout, settings.stall_timeout) {}

std::string Remote::resolve_url(
    const std::string& repo,
    const std::string& commit,
    const std::string& file) const {
  return settings_.endpoint + "/" + repo + "/resolve/" + escaped(commit) + "/" +
      escaped(file, "/");
}

Listing Remote::list(const Reference& reference) {
  const auto what = reference.repo +
      (reference.revision == "main" ? "" : "@" + reference.revision);
  std::string body;
  HttpRequest request{
      .url = settings_.endpoint + "/api/models/" + reference.repo +
          "/revision/" + escaped(reference.revision),
      .token = settings_.token,
      .body =
          [&](const HttpResponse&, std::string_view bytes) {
            if (body.size() + bytes.size() > max_listing_bytes) {
              throw HubError(
                  Fault::server, what + ": the list of its files is too long");
            }
            body += bytes;
          },
      .cancelled = cancelled_};
  Retries retries(settings_, cancelled_);
  for (;;) {
    try {
      body.clear();
      const auto response = client_.send(request);
      if (response.status != 200) {
        throw failure_of(response, what, settings_);
      }
      break;
    } catch (const HubError& failure) {
      retries.wait_after(failure);
    }
  }
  const auto wrong = [&](const std::string& field) {
    return HubError(
        Fault::server,
        what + ": " + settings_.endpoint + " answers without a usable \"" +
            field + "\"; is HF_ENDPOINT a model hub?");
  };
  const auto json =
      nlohmann::json::parse(body, nullptr, /* allow_exceptions */ false);
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

FileInfo Remote::info(
    const std::string& repo,
    const std::string& commit,
    const std::string& file) {
  const auto what = repo + " " + file;
  const HttpRequest request{
      .url = resolve_url(repo, commit, file),
      .head_only = true,
      .redirects = Redirects::same_origin,
      .token = settings_.token,
      .cancelled = cancelled_};
  Retries retries(settings_, cancelled_);
  for (;;) {
    try {
      const auto response = client_.send(request);
      if (response.status / 100 != 2 && response.status / 100 != 3) {
        throw failure_of(response, what, settings_);
      }
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
            what + ": comes from commit " + from.substr(0, 64) + ", expected " +
                commit);
      }
      if (!size || *size > std::uint64_t{1} << 50) {
        throw HubError(Fault::server, what + ": the server gives no size");
      }
      if (digest_of_etag(etag, *size) == nullptr) {
        throw HubError(
            Fault::server,
            what + ": the ETag \"" + etag.substr(0, 80) +
                "\" is neither a SHA-256 nor git's SHA-1, so that the file "
                "cannot be checked");
      }
      return {.etag = etag, .n_bytes = *size};
    } catch (const HubError& failure) {
      retries.wait_after(failure);
    }
  }
}

void Remote::read(
    const std::string& repo,
    const std::string& commit,
    const std::string& file,
    std::uint64_t first,
    const std::function<void(const HttpResponse&, std::string_view)>& body) {
  const auto response = client_.send({
      .url = resolve_url(repo, commit, file),
      .token = settings_.token,
      .first_byte = first,
      .body = body,
      .cancelled = cancelled_,
  });
  if (response.status != 200 && response.status != 206) {
    throw failure_of(response, repo + " " + file, settings_);
  }
}

} // namespace qwen3_mlx::hub
