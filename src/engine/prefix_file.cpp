// SPDX-License-Identifier: MIT
// The file: magic, the header's length, a header of text that says all that
// must agree, the number of blocks, then a record for each: the record of its
// parent (itself for the first block of a text), its tokens, a checksum of both
// and of its contents, and its contents. Parents come before their children.
#include "engine/prefix_file.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::engine {
namespace {

constexpr std::string_view magic = "QW3PRFX1";
constexpr std::uint64_t max_header_bytes = 1 << 16;

std::string header_of(
    const std::string& identity,
    const BlockManager& blocks,
    const KvStorage& storage) {
  return identity + "\nblocks of " + std::to_string(blocks.block_size()) +
      " positions in " + std::to_string(storage.block_bytes()) + " bytes\n";
}

// A record without the contents, as it is in the file.
struct Record {
  std::uint32_t parent;
  std::vector<std::uint32_t> tokens;

  std::size_t n_bytes() const {
    return sizeof(parent) + tokens.size() * sizeof(tokens[0]);
  }
};

// FNV-1a over words of eight bytes, so that it keeps up with the disk.
class Checksum {
 public:
  void add(const void* data, std::size_t n_bytes) {
    const auto* bytes = static_cast<const std::byte*>(data);
    for (std::size_t at = 0; at < n_bytes; at += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(
          &word, bytes + at, std::min(n_bytes - at, sizeof(std::uint64_t)));
      hash_ = (hash_ ^ word) * 0x100000001b3u;
      hash_ ^= hash_ >> 29;
    }
  }
  std::uint64_t value() const {
    return hash_;
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

std::uint64_t
checksum_of(const Record& record, const std::vector<std::byte>& contents) {
  Checksum sum;
  sum.add(&record.parent, sizeof(record.parent));
  sum.add(
      record.tokens.data(), record.tokens.size() * sizeof(record.tokens[0]));
  sum.add(contents.data(), contents.size());
  return sum.value();
}

// Reads a file from its begin to its end.
class Reader {
 public:
  explicit Reader(const File& file) : file_(file) {}

  void read(void* out, std::size_t n_bytes) {
    file_.read(at_, n_bytes, out);
    at_ += n_bytes;
  }
  std::uint64_t num_left() const {
    return file_.size() - at_;
  }

 private:
  const File& file_;
  std::uint64_t at_ = 0;
};

void check_header(Reader& reader, const File& file, const std::string& header) {
  std::string found(magic.size(), '\0');
  std::uint64_t length = 0;
  if (reader.num_left() < magic.size() + sizeof(length)) {
    throw FileError(file.path(), "is no file of a prefix cache");
  }
  reader.read(found.data(), found.size());
  reader.read(&length, sizeof(length));
  if (found != magic || length > max_header_bytes ||
      length > reader.num_left()) {
    throw FileError(file.path(), "is no file of a prefix cache");
  }
  found.resize(length);
  reader.read(found.data(), found.size());
  if (found != header) {
    throw FileError(
        file.path(),
        "was made with another model, tokenizer, version or option");
  }
}

} // namespace

int save_prefixes(
    const std::filesystem::path& path,
    const std::string& identity,
    const BlockManager& blocks,
    const KvStorage& storage) {
  const auto found = blocks.findable();
  const auto header = header_of(identity, blocks, storage);
  const std::uint64_t length = header.size();
  AtomicFile file(path, AtomicFile::Access::owner);
  file.write(magic);
  file.write(&length, sizeof(length));
  file.write(header);
  const std::uint64_t count = found.size();
  file.write(&count, sizeof(count));
  std::vector<std::byte> contents(storage.block_bytes());
  for (const auto& prefix : found) {
    const Record record{
        static_cast<std::uint32_t>(prefix.parent), prefix.tokens};
    storage.read_block(prefix.block, contents.data());
    const std::uint64_t sum = checksum_of(record, contents);
    file.write(&record.parent, sizeof(record.parent));
    file.write(
        record.tokens.data(), record.tokens.size() * sizeof(record.tokens[0]));
    file.write(&sum, sizeof(sum));
    file.write(contents.data(), contents.size());
  }
  file.commit();
  return static_cast<int>(found.size());
}

int load_prefixes(
    const std::filesystem::path& path,
    const std::string& identity,
    BlockManager& blocks,
    KvStorage& storage) {
  const File file(path);
  Reader reader(file);
  check_header(reader, file, header_of(identity, blocks, storage));
  Record record{0, {}};
  record.tokens.resize(static_cast<std::size_t>(blocks.block_size()));
  std::vector<std::byte> contents(storage.block_bytes());
  std::uint64_t sum = 0;
  const std::uint64_t record_bytes =
      record.n_bytes() + sizeof(sum) + contents.size();
  std::uint64_t count = 0;
  reader.read(&count, sizeof(count));
  if (count > std::numeric_limits<std::int32_t>::max() ||
      reader.num_left() != count * record_bytes) {
    throw FileError(
        file.path(), "is not as long as its blocks; it was cut or damaged");
  }
  // Contents go to blocks that nobody finds before all of them are checked.
  std::vector<FoundPrefix> adopted;
  try {
    for (std::uint64_t idx = 0; idx < count; ++idx) {
      reader.read(&record.parent, sizeof(record.parent));
      reader.read(
          record.tokens.data(),
          record.tokens.size() * sizeof(record.tokens[0]));
      reader.read(&sum, sizeof(sum));
      reader.read(contents.data(), contents.size());
      if (record.parent > idx || sum != checksum_of(record, contents)) {
        throw FileError(
            file.path(), "block " + std::to_string(idx) + " is damaged");
      }
      const auto block = blocks.reserve_unused();
      if (!block) {
        break; // no room for more, and what follows needs what came before
      }
      storage.write_block(*block, contents.data());
      adopted.push_back(
          {*block, static_cast<std::int32_t>(record.parent), record.tokens});
    }
  } catch (const Error&) {
    for (const auto& prefix : adopted) {
      blocks.give_back(prefix.block);
    }
    throw;
  }
  blocks.adopt(adopted);
  return static_cast<int>(adopted.size());
}

} // namespace qwen3_mlx::engine
