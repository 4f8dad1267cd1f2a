// SPDX-License-Identifier: MIT
#include "hub/remote.h"

#include <algorithm>
#include <thread>

namespace qwen3_mlx::hub {
namespace {

constexpr std::size_t max_listing_bytes = 64 << 20;

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
  return parse_listing(body, what, settings_.endpoint);
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
      return file_info_of(response, what, commit);
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
