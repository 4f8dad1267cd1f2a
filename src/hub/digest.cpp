// SPDX-License-Identifier: MIT
#include "hub/digest.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

namespace qwen3_mlx::hub {
namespace {

std::uint32_t big_endian(const unsigned char* bytes) {
  return static_cast<std::uint32_t>(bytes[0]) << 24 |
      static_cast<std::uint32_t>(bytes[1]) << 16 |
      static_cast<std::uint32_t>(bytes[2]) << 8 |
      static_cast<std::uint32_t>(bytes[3]);
}

std::string hex_of(std::span<const std::uint32_t> words) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const auto word : words) {
    for (int shift = 28; shift >= 0; shift -= 4) {
      text += digits[(word >> shift) & 15];
    }
  }
  return text;
}

// The first 32 bits of the fractional parts of the cube roots of the first 64
// primes (FIPS 180-4, 4.2.2).
constexpr std::array<std::uint32_t, 64> sha256_constants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
    0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

} // namespace

void Digest::update(const void* data, std::size_t n_bytes) {
  const auto* from = static_cast<const unsigned char*>(data);
  n_bytes_ += n_bytes;
  while (n_bytes > 0) {
    if (n_pending_ == 0 && n_bytes >= block_size) {
      consume(from);
      from += block_size;
      n_bytes -= block_size;
      continue;
    }
    const auto count = std::min(n_bytes, block_size - n_pending_);
    std::memcpy(pending_.data() + n_pending_, from, count);
    n_pending_ += count;
    from += count;
    n_bytes -= count;
    if (n_pending_ == block_size) {
      consume(pending_.data());
      n_pending_ = 0;
    }
  }
}

std::string Digest::hex() {
  // A one, zeros, and the length in bits as the last eight bytes of a block.
  const std::uint64_t n_bits = n_bytes_ * 8;
  std::array<unsigned char, block_size + 8> padding{0x80};
  const auto n_zeros = (2 * block_size - 9 - n_pending_) % block_size;
  update(padding.data(), 1 + n_zeros);
  std::array<unsigned char, 8> length{};
  for (std::size_t byte = 0; byte < 8; ++byte) {
    length[byte] = static_cast<unsigned char>(n_bits >> (56 - 8 * byte));
  }
  update(length.data(), length.size());
  return state_hex();
}

void Sha1::consume(const unsigned char* block) {
  std::array<std::uint32_t, 80> w{};
  for (std::size_t t = 0; t < 16; ++t) {
    w[t] = big_endian(block + 4 * t);
  }
  for (std::size_t t = 16; t < 80; ++t) {
    w[t] = std::rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
  }
  auto [a, b, c, d, e] = state_;
  for (std::size_t t = 0; t < 80; ++t) {
    std::uint32_t f = b ^ c ^ d;
    std::uint32_t k = t < 40 ? 0x6ed9eba1 : 0xca62c1d6;
    if (t < 20) {
      f = (b & c) | (~b & d);
      k = 0x5a827999;
    } else if (t >= 40 && t < 60) {
      f = (b & c) | (b & d) | (c & d);
      k = 0x8f1bbcdc;
    }
    const auto next = std::rotl(a, 5) + f + e + k + w[t];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  state_[0] += a;
  state_[1] += b;
  state_[2] += c;
  state_[3] += d;
  state_[4] += e;
}

std::string Sha1::state_hex() const {
  return hex_of(state_);
}

void Sha256::consume(const unsigned char* block) {
  std::array<std::uint32_t, 64> w{};
  for (std::size_t t = 0; t < 16; ++t) {
    w[t] = big_endian(block + 4 * t);
  }
  for (std::size_t t = 16; t < 64; ++t) {
    const auto s0 =
        std::rotr(w[t - 15], 7) ^ std::rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
    const auto s1 =
        std::rotr(w[t - 2], 17) ^ std::rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t t = 0; t < 64; ++t) {
    const auto s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const auto first =
        h + s1 + ((e & f) ^ (~e & g)) + sha256_constants[t] + w[t];
    const auto s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const auto second = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + first;
    d = c;
    c = b;
    b = a;
    a = first + second;
  }
  const std::array<std::uint32_t, 8> sum{a, b, c, d, e, f, g, h};
  for (std::size_t word = 0; word < sum.size(); ++word) {
    state_[word] += sum[word];
  }
}

std::string Sha256::state_hex() const {
  return hex_of(state_);
}

std::unique_ptr<Digest>
digest_of_etag(std::string_view etag, std::uint64_t n_bytes) {
  const bool is_hex = std::all_of(etag.begin(), etag.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  if (is_hex && etag.size() == 64) {
    return std::make_unique<Sha256>();
  }
  if (!is_hex || etag.size() != 40) {
    return nullptr;
  }
  auto digest = std::make_unique<Sha1>();
  const auto header = "blob " + std::to_string(n_bytes);
  digest->update(header.c_str(), header.size() + 1); // git's NUL with it
  return digest;
}

} // namespace qwen3_mlx::hub
