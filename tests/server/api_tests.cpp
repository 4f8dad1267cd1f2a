// SPDX-License-Identifier: MIT
// The OpenAPI document names the routes there are, and errors map to statuses.
#include "server/api.h"

#include <new>
#include <set>

#include <gtest/gtest.h>

#include "server/api_error.h"
#include "server/assets.h"

namespace qwen3_mlx::server {
namespace {

TEST(Assets, AreThere) {
  for (const char* path : {"/", "/app.js", "/style.css", "/openapi.json"}) {
    const auto* asset = find_asset(path);
    ASSERT_NE(asset, nullptr) << path;
    EXPECT_FALSE(asset->content.empty());
  }
  EXPECT_EQ(find_asset("/nothing"), nullptr);
}

TEST(OpenApi, IsAnOpenApiDocumentOfTheRoutes) {
  const auto document = Json::parse(find_asset("/openapi.json")->content);
  EXPECT_EQ(document["openapi"], "3.1.0");
  std::set<std::string> paths;
  for (const auto& [path, item] : document["paths"].items()) {
    paths.insert(path);
  }
  EXPECT_EQ(
      paths,
      (std::set<std::string>{
          "/v1/chat/completions",
          "/v1/completions",
          "/v1/models",
          "/v1/models/{id}",
          "/health",
          "/metrics",
          "/tokenize",
          "/detokenize",
          "/apply-template",
          "/props",
          "/openapi.json"}));
}

TEST(ApiError, MapsExceptionsToStatuses) {
  EXPECT_EQ(error_response(engine::QueueFull("full")).status, 503);
  EXPECT_EQ(error_response(engine::EngineStopped("over")).status, 503);
  EXPECT_EQ(error_response(std::bad_alloc()).status, 503);
  EXPECT_EQ(error_response(std::runtime_error("x")).status, 500);
  const auto bad = error_response(InvalidArgument("top_p: is wrong"));
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(Json::parse(bad.body)["error"]["param"], "top_p");
  const auto vague = error_response(InvalidArgument("this is: wrong"));
  EXPECT_TRUE(Json::parse(vague.body)["error"]["param"].is_null());
}

TEST(Http, HeadsAndChunks) {
  HttpResponse response;
  response.body = "{}";
  const auto head = head_of(response, {.keep_alive = false});
  EXPECT_NE(head.find("HTTP/1.1 200 OK\r\n"), std::string::npos);
  EXPECT_NE(head.find("Content-Length: 2\r\n"), std::string::npos);
  EXPECT_NE(head.find("Connection: close\r\n"), std::string::npos);
  EXPECT_EQ(
      chunk_of(std::string(17, 'a')), "11\r\n" + std::string(17, 'a') + "\r\n");
}

} // namespace
} // namespace qwen3_mlx::server
