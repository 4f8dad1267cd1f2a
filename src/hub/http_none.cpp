// SPDX-License-Identifier: MIT
// Builds without libcurl: the cache is there, the network is not.

#include "hub/http.h"
#include "hub/hub_error.h"

namespace qwen3_mlx::hub {

struct HttpClient::State {};

HttpClient::HttpClient(std::chrono::milliseconds, std::chrono::milliseconds) {}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::send(const HttpRequest& request) {
  throw HubError(
      Fault::network,
      request.url +
          ": this program was built without libcurl and cannot download; "
          "fetch the model another way and name its folder");
}

} // namespace qwen3_mlx::hub
