// SPDX-License-Identifier: MIT
// Redirects are followed here, one by one, since what may be sent where is
// this program's to decide, not libcurl's.

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <exception>
#include <new>

#include "hub/http.h"
#include "hub/hub_error.h"

namespace qwen3_mlx::hub {
namespace {

constexpr int max_redirects = 8;
constexpr std::size_t max_header_bytes = std::size_t{1} << 20;

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  return result;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  const auto first = text.find_first_not_of(space);
  return first == std::string_view::npos
      ? std::string_view()
      : text.substr(first, text.find_last_not_of(space) - first + 1);
}

struct UrlDeleter {
  void operator()(CURLU* url) const {
    curl_url_cleanup(url);
  }
};

/// Scheme, host and port in one string; empty for what is no URL.
std::string origin_of(const std::string& text) {
  const std::unique_ptr<CURLU, UrlDeleter> url(curl_url());
  if (url == nullptr ||
      curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) {
    return {};
  }
  std::string origin;
  for (const auto part : {CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT}) {
    char* value = nullptr;
    if (curl_url_get(url.get(), part, &value, CURLU_DEFAULT_PORT) !=
        CURLUE_OK) {
      return {};
    }
    origin += lower(value) + "|";
    curl_free(value);
  }
  return origin;
}

/// What the callbacks of one transfer write to.
struct Transfer {
  const HttpRequest* request = nullptr;
  HttpResponse response;
  std::size_t n_header_bytes = 0;
  std::exception_ptr failure;
  bool was_cancelled = false;
};

std::size_t on_header(char* data, std::size_t, std::size_t n, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const std::string_view line(data, n);
  transfer.n_header_bytes += n;
  if (transfer.n_header_bytes > max_header_bytes) {
    return 0;
  }
  try {
    if (line.starts_with("HTTP/")) {
      transfer.response.headers.clear(); // of a "100 Continue" before it
    } else if (const auto colon = line.find(':');
               colon != std::string_view::npos) {
      transfer.response.headers[lower(trimmed(line.substr(0, colon)))] =
          trimmed(line.substr(colon + 1));
    }
  } catch (...) {
    transfer.failure = std::current_exception();
    return 0;
  }
  return n;
}

struct EasyTransfer {
  CURL* easy;
  Transfer transfer;
};

std::size_t on_body(char* data, std::size_t, std::size_t n, void* context) {
  auto& [easy, transfer] = *static_cast<EasyTransfer*>(context);
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  if (!transfer.request->body || (status != 200 && status != 206)) {
    return n;
  }
  try {
    transfer.request->body(transfer.response, {data, n});
  } catch (...) {
    transfer.failure = std::current_exception();
    return 0;
  }
  return n;
}

int on_progress(void* context, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(context);
  if (transfer.request->cancelled && transfer.request->cancelled()) {
    transfer.was_cancelled = true;
    return 1;
  }
  return 0;
}

struct ListDeleter {
  void operator()(curl_slist* list) const {
    curl_slist_free_all(list);
  }
};

} // namespace

struct HttpClient::State {
  CURL* easy = nullptr;
  std::chrono::milliseconds connect_timeout{};
  std::chrono::milliseconds stall_timeout{};

  HttpResponse
  send_one(const HttpRequest& request, const std::string& url, bool with_token);
  std::string redirect() const;
};

HttpClient::HttpClient(
    std::chrono::milliseconds connect_timeout,
    std::chrono::milliseconds stall_timeout)
    : state_(std::make_unique<State>()) {
  // Counted by libcurl, and safe from several threads since 7.84.
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    throw HubError(Fault::network, "libcurl cannot be initialized");
  }
  state_->easy = curl_easy_init();
  if (state_->easy == nullptr) {
    curl_global_cleanup();
    throw std::bad_alloc();
  }
  state_->connect_timeout = connect_timeout;
  state_->stall_timeout = stall_timeout;
}

HttpClient::~HttpClient() {
  curl_easy_cleanup(state_->easy);
  curl_global_cleanup();
}

/// The address that the last answer redirects to, absolute; empty: it does not.
std::string HttpClient::State::redirect() const {
  char* url = nullptr;
  curl_easy_getinfo(easy, CURLINFO_REDIRECT_URL, &url);
  return url == nullptr ? std::string() : std::string(url);
}

HttpResponse HttpClient::State::send_one(
    const HttpRequest& request,
    const std::string& url,
    bool with_token) {
  EasyTransfer state{easy, {.request = &request}};
  std::array<char, CURL_ERROR_SIZE> message{};
  curl_easy_reset(easy); // connections stay
  const auto set = [this](CURLoption option, auto value) {
    if (curl_easy_setopt(easy, option, value) == CURLE_OUT_OF_MEMORY) {
      throw std::bad_alloc();
    }
  };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_USERAGENT, "qwen3-mlx");
  set(CURLOPT_NOBODY, request.head_only ? 1L : 0L);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(connect_timeout.count()));
  // A server that sends less than a byte a second counts as gone.
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME,
      std::max(1L, static_cast<long>(stall_timeout.count() / 1000)));
  set(CURLOPT_BUFFERSIZE, 256L << 10);
  set(CURLOPT_ERRORBUFFER, message.data());
  set(CURLOPT_HEADERFUNCTION, &on_header);
  set(CURLOPT_HEADERDATA, &state.transfer);
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_WRITEDATA, &state);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &on_progress);
  set(CURLOPT_XFERINFODATA, &state.transfer);

  // Compressed bytes would be neither counted nor hashed as they are named.
  std::unique_ptr<curl_slist, ListDeleter> headers(
      curl_slist_append(nullptr, "Accept-Encoding: identity"));
  if (with_token) {
    const auto line = "Authorization: Bearer " + request.token;
    headers.reset(curl_slist_append(headers.release(), line.c_str()));
  }
  set(CURLOPT_HTTPHEADER, headers.get());
  const auto range = std::to_string(request.first_byte) + "-";
  if (request.first_byte > 0) {
    set(CURLOPT_RANGE, range.c_str());
  }

  const CURLcode code = curl_easy_perform(easy);
  auto& transfer = state.transfer;
  if (transfer.failure) {
    std::rethrow_exception(transfer.failure);
  }
  if (transfer.was_cancelled) {
    throw HubError(Fault::cancelled, "interrupted");
  }
  if (code != CURLE_OK) {
    throw HubError(
        Fault::network,
        url + ": " +
            (message[0] != '\0' ? message.data() : curl_easy_strerror(code)));
  }
  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  transfer.response.status = static_cast<int>(status);
  return std::move(transfer.response);
}

HttpResponse HttpClient::send(const HttpRequest& request) {
  std::string url = request.url;
  const auto home = origin_of(url);
  std::map<std::string, std::string> seen;
  for (int hop = 0; hop <= max_redirects; ++hop) {
    const auto origin = origin_of(url);
    const bool with_token = !request.token.empty() && origin == home;
    auto response = state_->send_one(request, url, with_token);
    for (const auto& [name, value] : response.headers) {
      if (name.starts_with("x-")) {
        seen[name] = value;
      }
    }
    const auto next = state_->redirect();
    const bool follows = response.status / 100 == 3 && !next.empty() &&
        (request.redirects == Redirects::all || origin_of(next) == home);
    if (!follows) {
      response.headers.merge(seen);
      return response;
    }
    if (url.starts_with("https:") && !next.starts_with("https:")) {
      throw HubError(
          Fault::server,
          request.url + ": redirects to an address without encryption, " +
              origin_of(next));
    }
    url = next;
  }
  throw HubError(
      Fault::server,
      request.url + ": redirects more than " + std::to_string(max_redirects) +
          " times");
}

} // namespace qwen3_mlx::hub
