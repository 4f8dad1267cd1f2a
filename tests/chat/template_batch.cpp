// SPDX-License-Identifier: MIT
// Renders many templates in one process, for scripts that compare the results
// with other programs: each line of standard input is a JSON object
// {"template": ..., "request": {...}} (as transformers renders requests) or
// {"template": ..., "context": {...}} (plain variables); each line of standard
// output is {"ok": text} or {"error": reason}. The clock stands at
// 2026-11-23 04:05:06.
#include <iostream>
#include <string>

#include "chat/jinja/template.h"
#include "chat/json_text.h"
#include "chat/json_value.h"
#include "qwen3_mlx/chat_template.h"
#include "qwen3_mlx/error.h"

namespace {

using namespace qwen3_mlx;

std::tm fixed_time() {
  std::tm now{};
  now.tm_year = 2026 - 1900;
  now.tm_mon = 10;
  now.tm_mday = 23;
  now.tm_hour = 4;
  now.tm_min = 5;
  now.tm_sec = 6;
  now.tm_wday = 1;
  now.tm_yday = 326;
  return now;
}

std::string render(const jinja::Value& job, const TemplateLimits& limits) {
  const jinja::Dict& fields = job.as_dict();
  const std::string& source = fields.find("template")->as_string();
  if (const jinja::Value* request = fields.find("request")) {
    RenderOptions options;
    options.now = fixed_time();
    options.limits = limits;
    return ChatTemplate(source).render_json(to_json(*request), options);
  }
  return jinja::Template(source, "t")
      .render(fields.find("context")->as_dict(), limits, fixed_time());
}

} // namespace

int main() {
  std::ios::sync_with_stdio(false);
  TemplateLimits limits;
  // The comparison is about results: a busy machine must not end it.
  limits.max_time = std::chrono::seconds(20);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::string out;
    try {
      out =
          "{\"ok\": " + json_string(render(parse_json(line, "line"), limits)) +
          "}";
    } catch (const Error& e) {
      out = "{\"error\": " + json_string(e.what()) + "}";
    }
    std::cout << out << '\n';
    if (std::cin.rdbuf()->in_avail() == 0) {
      std::cout.flush();
    }
  }
}
