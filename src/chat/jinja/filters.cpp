// SPDX-License-Identifier: MIT
#include "chat/jinja/filters.h"

#include <algorithm>
#include <array>

namespace qwen3_mlx::jinja {

namespace {

struct Entry {
  std::string_view name;
  Filter filter;
};

// Known to Jinja, and not for prompts: HTML links and chance.
template <const char* const& name>
Value not_provided(Runtime&, const Value&, Args) {
  throw Fault(std::string("the filter '") + name + "' is not provided here");
}
constexpr const char* random_name = "random";
constexpr const char* urlize_name = "urlize";
constexpr const char* wordwrap_name = "wordwrap";

constexpr std::array<Entry, 54> table = {{
    {"abs", filters::absolute},
    {"attr", filters::attr},
    {"batch", filters::batch},
    {"capitalize", filters::capitalize},
    {"center", filters::center},
    {"count", filters::count},
    {"d", filters::default_value},
    {"default", filters::default_value},
    {"dictsort", filters::dict_sort},
    {"e", filters::escape},
    {"escape", filters::escape},
    {"filesizeformat", filters::file_size},
    {"first", filters::first},
    {"float", filters::to_float},
    {"forceescape", filters::force_escape},
    {"format", filters::format},
    {"groupby", filters::group_by},
    {"indent", filters::indent},
    {"int", filters::to_int},
    {"items", filters::items},
    {"join", filters::join},
    {"last", filters::last},
    {"length", filters::count},
    {"list", filters::list},
    {"lower", filters::lower},
    {"map", filters::map},
    {"max", filters::max},
    {"min", filters::min},
    {"pprint", filters::pretty},
    {"random", not_provided<random_name>},
    {"reject", filters::reject},
    {"rejectattr", filters::reject_attr},
    {"replace", filters::replace},
    {"reverse", filters::reverse},
    {"round", filters::round},
    {"safe", filters::safe},
    {"select", filters::select},
    {"selectattr", filters::select_attr},
    {"slice", filters::slice},
    {"sort", filters::sort},
    {"string", filters::string},
    {"striptags", filters::strip_tags},
    {"sum", filters::sum},
    {"title", filters::title},
    {"tojson", filters::to_json},
    {"trim", filters::trim},
    {"truncate", filters::truncate},
    {"unique", filters::unique},
    {"upper", filters::upper},
    {"urlencode", filters::url_encode},
    {"urlize", not_provided<urlize_name>},
    {"wordcount", filters::word_count},
    {"wordwrap", not_provided<wordwrap_name>},
    {"xmlattr", filters::xml_attributes},
}};

} // namespace

Filter find_filter(std::string_view name) {
  auto it = std::lower_bound(
      table.begin(), table.end(), name, [](const Entry& e, auto key) {
        return e.name < key;
      });
  return it != table.end() && it->name == name ? it->filter : nullptr;
}

bool has_filter(std::string_view name) {
  return find_filter(name) != nullptr;
}

} // namespace qwen3_mlx::jinja
