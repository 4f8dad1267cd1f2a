// SPDX-License-Identifier: MIT
#include "engine/text_output.h"

#include <algorithm>

namespace qwen3_mlx::engine {
namespace {

// Length of the longest end of `text` that `stop` begins with.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (auto n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.ends_with(stop.substr(0, n))) {
      return n;
    }
  }
  return 0;
}

} // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops)
    : stops_(std::move(stops)) {
  std::erase(stops_, std::string());
}

std::string StopMatcher::add(std::string_view text) {
  if (matched_) {
    return {};
  }
  held_ += text;
  std::size_t found = std::string::npos;
  std::size_t keep = 0;
  for (const auto& stop : stops_) {
    found = std::min(found, held_.find(stop));
    keep = std::max(keep, overlap(held_, stop));
  }
  matched_ = found != std::string::npos;
  const auto certain = matched_ ? found : held_.size() - keep;
  std::string out = held_.substr(0, certain);
  held_.erase(0, matched_ ? held_.size() : certain);
  return out;
}

std::string StopMatcher::finish() {
  return std::exchange(held_, {});
}

TextOutput::TextOutput(const Request& request, const Tokenizer& tokenizer)
    : detokenizer_(tokenizer), stops_(request.stop),
      stop_ids_(request.stop_ids), max_tokens_(request.max_tokens),
      thinking_(request.thinking),
      is_thinking_(thinking_ && thinking_->starts_open) {
  if (is_thinking_ && thinking_->max_tokens == 0) {
    forced_.assign(thinking_->closing.begin(), thinking_->closing.end());
  }
}

std::uint32_t TextOutput::decide(std::uint32_t token) {
  if (forced_.empty()) {
    return token;
  }
  const auto forced = forced_.front();
  forced_.pop_front();
  return forced;
}

void TextOutput::watch_thinking(std::uint32_t token) {
  if (!thinking_) {
    return;
  }
  if (token == thinking_->open_id) {
    is_thinking_ = true;
  } else if (token == thinking_->close_id) {
    is_thinking_ = false;
  } else if (is_thinking_ && forced_.empty()) {
    ++num_thought_;
  }
  if (is_thinking_ && forced_.empty() &&
      num_thought_ >= thinking_->max_tokens) {
    forced_.assign(thinking_->closing.begin(), thinking_->closing.end());
  }
}

TextOutput::Piece TextOutput::add(std::uint32_t token) {
  ++num_tokens_;
  const bool is_end =
      std::find(stop_ids_.begin(), stop_ids_.end(), token) != stop_ids_.end();
  Piece piece;
  if (!is_end) {
    watch_thinking(token);
    piece.text = stops_.add(detokenizer_.add(token));
    if (stops_.matched()) {
      piece.finish = Finish::stop;
      return piece;
    }
  }
  if (is_end || num_tokens_ == max_tokens_) {
    piece.text += stops_.add(detokenizer_.finish());
    const bool is_stop = is_end || stops_.matched();
    piece.text += stops_.finish();
    piece.finish = is_stop ? Finish::stop : Finish::length;
  }
  return piece;
}

} // namespace qwen3_mlx::engine
