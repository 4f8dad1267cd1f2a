// SPDX-License-Identifier: MIT
// Jinja's built-in filters, by what they work on. filters.cpp has the table.
#pragma once

#include "chat/jinja/builtins.h"

namespace qwen3_mlx::jinja::filters {

#define QWEN3_MLX_FILTER(name) Value name(Runtime&, const Value&, Args)

// filters_text.cpp
QWEN3_MLX_FILTER(upper);
QWEN3_MLX_FILTER(lower);
QWEN3_MLX_FILTER(capitalize);
QWEN3_MLX_FILTER(title);
QWEN3_MLX_FILTER(trim);
QWEN3_MLX_FILTER(replace);
QWEN3_MLX_FILTER(center);
QWEN3_MLX_FILTER(indent);
QWEN3_MLX_FILTER(truncate);
QWEN3_MLX_FILTER(word_count);
QWEN3_MLX_FILTER(format);
QWEN3_MLX_FILTER(string);
QWEN3_MLX_FILTER(safe);
QWEN3_MLX_FILTER(escape);
QWEN3_MLX_FILTER(force_escape);
QWEN3_MLX_FILTER(strip_tags);
QWEN3_MLX_FILTER(url_encode);
QWEN3_MLX_FILTER(xml_attributes);
QWEN3_MLX_FILTER(file_size);
QWEN3_MLX_FILTER(to_json);
QWEN3_MLX_FILTER(pretty);

// filters_numbers.cpp
QWEN3_MLX_FILTER(absolute);
QWEN3_MLX_FILTER(to_int);
QWEN3_MLX_FILTER(to_float);
QWEN3_MLX_FILTER(round);
QWEN3_MLX_FILTER(sum);

// filters_sequences.cpp
QWEN3_MLX_FILTER(attr);
QWEN3_MLX_FILTER(batch);
QWEN3_MLX_FILTER(count);
QWEN3_MLX_FILTER(default_value);
QWEN3_MLX_FILTER(dict_sort);
QWEN3_MLX_FILTER(first);
QWEN3_MLX_FILTER(group_by);
QWEN3_MLX_FILTER(items);
QWEN3_MLX_FILTER(join);
QWEN3_MLX_FILTER(last);
QWEN3_MLX_FILTER(list);
QWEN3_MLX_FILTER(map);
QWEN3_MLX_FILTER(max);
QWEN3_MLX_FILTER(min);
QWEN3_MLX_FILTER(reject);
QWEN3_MLX_FILTER(reject_attr);
QWEN3_MLX_FILTER(reverse);
QWEN3_MLX_FILTER(select);
QWEN3_MLX_FILTER(select_attr);
QWEN3_MLX_FILTER(slice);
QWEN3_MLX_FILTER(sort);
QWEN3_MLX_FILTER(unique);

#undef QWEN3_MLX_FILTER

} // namespace qwen3_mlx::jinja::filters
