// SPDX-License-Identifier: MIT
#include "server/security.h"

#include <gtest/gtest.h>

#include "server/api_error.h"

namespace qwen3_mlx::server {
namespace {

HttpRequest with(Headers headers) {
  HttpRequest request;
  request.headers = std::move(headers);
  return request;
}

bool is_allowed(const Gate& gate, Headers headers) {
  try {
    gate.check_origin(with(std::move(headers)));
    return true;
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 403);
    return false;
  }
}

TEST(Security, ComparesWholeTexts) {
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  EXPECT_FALSE(equal_in_constant_time("abd", "abc"));
  EXPECT_FALSE(equal_in_constant_time("ab", "abc"));
  EXPECT_FALSE(equal_in_constant_time("abcabc", "abc"));
  EXPECT_FALSE(equal_in_constant_time("", "abc"));
  EXPECT_TRUE(equal_in_constant_time("", ""));
}

TEST(Security, OtherAddressesNeedAKeyOrTheirOwnFlag) {
  ServerOptions options;
  options.host = "0.0.0.0";
  EXPECT_THROW(Gate{options}, InvalidArgument);
  options.allow_open = true;
  EXPECT_NO_THROW(Gate{options});
  options.allow_open = false;
  options.api_keys = {"k"};
  EXPECT_NO_THROW(Gate{options});
  options.api_keys = {""};
  EXPECT_THROW(Gate{options}, InvalidArgument);
}

TEST(Security, FindsKeys) {
  ServerOptions options;
  options.api_keys = {"first", "second"};
  const Gate gate(options);
  EXPECT_EQ(gate.find_key(with({{"authorization", "Bearer second"}})), 2);
  EXPECT_EQ(gate.find_key(with({{"x-api-key", "first"}})), 1);
  EXPECT_EQ(
      gate.find_key(with({{"authorization", "Bearer third"}})), std::nullopt);
  EXPECT_EQ(gate.find_key(with({})), std::nullopt);
  EXPECT_EQ(Gate(ServerOptions()).find_key(with({})), 0);
}

TEST(Security, KeepsForeignNamesAndPagesOut) {
  const Gate gate{ServerOptions()};
  EXPECT_TRUE(is_allowed(gate, {{"host", "localhost:8080"}}));
  EXPECT_TRUE(is_allowed(gate, {{"host", "[::1]:8080"}}));
  EXPECT_TRUE(is_allowed(gate, {{"host", "127.0.0.1"}}));
  EXPECT_FALSE(is_allowed(gate, {{"host", "evil.example"}}));
  EXPECT_TRUE(is_allowed(
      gate, {{"host", "localhost:80"}, {"origin", "http://localhost:80"}}));
  EXPECT_FALSE(is_allowed(
      gate, {{"host", "localhost:80"}, {"origin", "http://evil.example"}}));
  EXPECT_FALSE(is_allowed(gate, {{"host", "localhost"}, {"origin", "null"}}));
}

TEST(Security, AllowsWhatOptionsName) {
  ServerOptions options;
  options.allowed_hosts = {"Box.Local"};
  options.allowed_origins = {"http://app.example"};
  const Gate gate(options);
  EXPECT_TRUE(is_allowed(gate, {{"host", "box.local:8080"}}));
  const auto request =
      with({{"host", "localhost"}, {"origin", "http://app.example"}});
  EXPECT_NO_THROW(gate.check_origin(request));
  ASSERT_FALSE(gate.cors_headers(request).empty());
  EXPECT_EQ(gate.cors_headers(request)[0].second, "http://app.example");
  EXPECT_TRUE(gate.cors_headers(with({{"origin", "http://b"}})).empty());
}

} // namespace
} // namespace qwen3_mlx::server
