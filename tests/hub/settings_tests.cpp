// SPDX-License-Identifier: MIT
#include "hub/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx::hub {
namespace {

Settings settings(const std::map<std::string, std::string>& variables) {
  return settings_from([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(HubSettings, Defaults) {
  const auto found = settings({{"HOME", "/home/me"}});
  EXPECT_EQ(found.endpoint, "https://huggingface.co");
  EXPECT_EQ(found.cache, "/home/me/.cache/huggingface/hub");
  EXPECT_EQ(found.token, "");
  EXPECT_FALSE(found.offline);
}

TEST(HubSettings, PlacesOfTheCache) {
  const std::string home = "/home/me";
  EXPECT_EQ(
      settings({{"HOME", home}, {"XDG_CACHE_HOME", "/x"}}).cache,
      "/x/huggingface/hub");
  EXPECT_EQ(
      settings({{"HOME", home}, {"HF_HOME", "~/hf"}}).cache, "/home/me/hf/hub");
  EXPECT_EQ(
      settings({{"HF_HOME", "/hf"}, {"HUGGINGFACE_HUB_CACHE", "/c"}}).cache,
      "/c");
  EXPECT_EQ(
      settings({{"HF_HUB_CACHE", "/d"}, {"HUGGINGFACE_HUB_CACHE", "/c"}}).cache,
      "/d");
  EXPECT_EQ(
      settings({{"HF_HOME", ""}, {"HOME", home}}).cache,
      "/home/me/.cache/huggingface/hub");
}

TEST(HubSettings, Tokens) {
  const testing::TempDir dir;
  std::ofstream(dir.path() / "token") << "  hf_file\n";
  const auto home = dir.path().string();
  EXPECT_EQ(settings({{"HF_HOME", home}}).token, "hf_file");
  EXPECT_EQ(settings({{"HF_HOME", home}, {"HF_TOKEN", "hf_x"}}).token, "hf_x");
  EXPECT_EQ(settings({{"HF_TOKEN_PATH", home + "/token"}}).token, "hf_file");
  EXPECT_EQ(
      settings({{"HF_HOME", home}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}})
          .token,
      "");
  EXPECT_THROW(settings({{"HF_TOKEN", "a\nb"}}), InvalidArgument);
  EXPECT_THROW(settings({{"HF_TOKEN", "a b"}}), InvalidArgument);
}

TEST(HubSettings, Others) {
  EXPECT_EQ(
      settings({{"HF_ENDPOINT", "https://mirror/"}}).endpoint,
      "https://mirror");
  EXPECT_TRUE(settings({{"HF_HUB_OFFLINE", "yes"}}).offline);
  EXPECT_TRUE(settings({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_FALSE(settings({{"HF_HUB_OFFLINE", "0"}}).offline);
  EXPECT_EQ(
      settings({{"HF_HUB_DOWNLOAD_TIMEOUT", "7"}}).stall_timeout,
      std::chrono::seconds(7));
  EXPECT_THROW(settings({{"HF_ENDPOINT", "file:///x"}}), InvalidArgument);
  for (const char* value : {"x", "0", "-1", "1x", "99999999999"}) {
    EXPECT_THROW(settings({{"HF_HUB_ETAG_TIMEOUT", value}}), InvalidArgument);
  }
}

} // namespace
} // namespace qwen3_mlx::hub
