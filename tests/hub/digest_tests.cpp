// SPDX-License-Identifier: MIT
#include "hub/digest.h"

#include <gtest/gtest.h>

namespace qwen3_mlx::hub {
namespace {

template <class Hash>
std::string hash(std::string_view text, std::size_t piece = 1000) {
  Hash digest;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    digest.update(text.substr(at, piece));
  }
  return digest.hex();
}

// The examples of FIPS 180-4.
TEST(Digest, EqualsTheStandardsExamples) {
  const std::string two_blocks =
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  EXPECT_EQ(
      hash<Sha256>(""),
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(
      hash<Sha256>("abc"),
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      hash<Sha256>(two_blocks),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(
      hash<Sha256>(std::string(1'000'000, 'a')),
      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(hash<Sha1>(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(hash<Sha1>("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(hash<Sha1>(two_blocks), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  EXPECT_EQ(
      hash<Sha1>(std::string(1'000'000, 'a')),
      "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

TEST(Digest, PiecesDoNotMatter) {
  for (std::size_t length = 0; length < 200; ++length) {
    std::string text(length, 'x');
    for (std::size_t at = 0; at < length; ++at) {
      text[at] = static_cast<char>(at * 7);
    }
    const auto whole = hash<Sha256>(text);
    EXPECT_EQ(hash<Sha256>(text, 1), whole) << length;
    EXPECT_EQ(hash<Sha256>(text, 63), whole) << length;
    EXPECT_EQ(hash<Sha1>(text, 17), hash<Sha1>(text)) << length;
  }
}

TEST(Digest, ETagsNameHashes) {
  // printf 'hello\n' | git hash-object --stdin
  const std::string blob = "ce013625030ba8dba906f756967f9e9ca394464a";
  const auto git = digest_of_etag(blob, 6);
  ASSERT_NE(git, nullptr);
  git->update("hello\n");
  EXPECT_EQ(git->hex(), blob);

  const auto sha256 = digest_of_etag(std::string(64, 'a'), 3);
  ASSERT_NE(sha256, nullptr);
  sha256->update("abc");
  EXPECT_EQ(sha256->hex(), hash<Sha256>("abc"));

  for (const std::string& etag :
       {std::string(),
        std::string(63, 'a'),
        std::string(64, 'A'),
        std::string("../../etc/passwd"),
        std::string(40, 'g')}) {
    EXPECT_EQ(digest_of_etag(etag, 0), nullptr) << etag;
  }
}

} // namespace
} // namespace qwen3_mlx::hub
