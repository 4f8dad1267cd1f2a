// SPDX-License-Identifier: MIT
// SHA-1 and SHA-256 (FIPS 180-4) of bytes that come in pieces: what git and
// Git LFS name their contents by.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace qwen3_mlx::hub {

/// A hash of bytes given in any pieces.
class Digest {
 public:
  virtual ~Digest() = default;
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void update(const void* data, std::size_t n_bytes);
  void update(std::string_view bytes) {
    update(bytes.data(), bytes.size());
  }
  /// The digest in hexadecimal; nothing may be added after it.
  std::string hex();

 protected:
  static constexpr std::size_t block_size = 64;

  Digest() = default;
  virtual void consume(const unsigned char* block) = 0;
  /// The state, as big-endian words.
  virtual std::string state_hex() const = 0;

 private:
  std::array<unsigned char, block_size> pending_{};
  std::size_t n_pending_ = 0;
  std::uint64_t n_bytes_ = 0;
};

class Sha1 final : public Digest {
 private:
  void consume(const unsigned char* block) override;
  std::string state_hex() const override;

  std::array<std::uint32_t, 5> state_{
      0x67452301,
      0xefcdab89,
      0x98badcfe,
      0x10325476,
      0xc3d2e1f0};
};

class Sha256 final : public Digest {
 private:
  void consume(const unsigned char* block) override;
  std::string state_hex() const override;

  std::array<std::uint32_t, 8> state_{
      0x6a09e667,
      0xbb67ae85,
      0x3c6ef372,
      0xa54ff53a,
      0x510e527f,
      0x9b05688c,
      0x1f83d9ab,
      0x5be0cd19};
};

/// The hash that an ETag of the hub names a file of `n_bytes` by: 64 digits
/// are its SHA-256, 40 those of git's blob. Null for anything else.
std::unique_ptr<Digest>
digest_of_etag(std::string_view etag, std::uint64_t n_bytes);

} // namespace qwen3_mlx::hub
