// SPDX-License-Identifier: MIT
// Shell completion. The tree is first flattened to plain data; one writer per
// shell turns it into a script.

#include "cli/completion.h"

#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string_view>
#include <vector>

#include "cli/commands.h"

namespace qwen3_mlx::cli {
namespace {

enum class Value { none, any, choice, file, folder };

struct OptionEntry {
  std::vector<std::string> shorts; // "m"
  std::vector<std::string> longs;  // "model"
  std::string help;
  Value value = Value::any;
  std::vector<std::string> choices;
};

struct CommandEntry {
  std::string name;
  std::string help;
  std::vector<OptionEntry> options;
  OptionEntry positional; // what a bare word is completed to
};

/// The words of "TEXT:{cpu,gpu}", which is how CLI11 shows CLI::IsMember.
std::vector<std::string> choices_of(std::string_view type) {
  const auto open = type.find('{');
  const auto close = type.find('}', open);
  if (open == std::string_view::npos || close == std::string_view::npos) {
    return {};
  }
  std::vector<std::string> words;
  std::istringstream list(std::string(type.substr(open + 1, close - open - 1)));
  for (std::string word; std::getline(list, word, ',');) {
    words.push_back(word);
  }
  return words;
}

OptionEntry entry_of(const CLI::Option& option) {
  OptionEntry entry;
  entry.shorts = option.get_snames();
  entry.longs = option.get_lnames();
  entry.help = option.get_description();
  const std::string type = option.get_type_name();
  entry.choices = choices_of(type);
  if (option.get_items_expected_max() == 0) {
    entry.value = Value::none;
  } else if (!entry.choices.empty()) {
    entry.value = Value::choice;
  } else if (type.starts_with("DIR")) {
    entry.value = Value::folder;
  } else if (type.starts_with("FILE") || type.starts_with("PATH")) {
    entry.value = Value::file;
  }
  return entry;
}

CommandEntry entry_of(const CLI::App& app) {
  CommandEntry entry;
  entry.name = app.get_name();
  entry.help = app.get_description();
  for (const auto* option : app.get_options()) {
    if (option->get_positional() && option->get_lnames().empty()) {
      entry.positional = entry_of(*option);
    } else if (!option->get_group().empty()) { // hidden ones have none
      entry.options.push_back(entry_of(*option));
    }
  }
  return entry;
}

std::vector<CommandEntry> commands_of(const CLI::App& app) {
  std::vector<CommandEntry> commands;
  for (const auto* sub : app.get_subcommands({})) {
    commands.push_back(entry_of(*sub));
  }
  return commands;
}

std::vector<std::string> flags_of(const OptionEntry& option) {
  std::vector<std::string> flags;
  for (const auto& name : option.longs) {
    flags.push_back("--" + name);
  }
  for (const auto& name : option.shorts) {
    flags.push_back("-" + name);
  }
  return flags;
}

std::string
join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const auto& word : words) {
    text += text.empty() ? "" : separator;
    text += word;
  }
  return text;
}

/// `text` with each character of `special` preceded by `escape`.
std::string escaped(
    std::string_view text,
    std::string_view special,
    std::string_view escape) {
  std::string out;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) {
      out += escape;
    }
    out += c;
  }
  return out;
}

/// In single quotes, for bash and zsh: ' becomes '\''.
std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return out + "'";
}

std::string bash_reply(const OptionEntry& option) {
  switch (option.value) {
  case Value::choice:
    return "COMPREPLY=($(compgen -W " +
        shell_quoted(join(option.choices, " ")) + " -- \"$cur\"))";
  case Value::file:
    return "COMPREPLY=($(compgen -f -- \"$cur\"))";
  case Value::folder:
    return "COMPREPLY=($(compgen -d -- \"$cur\"))";
  case Value::none:
  case Value::any:
    break;
  }
  return "COMPREPLY=()";
}

std::string bash_script(const CLI::App& app) {
  std::ostringstream out;
  std::vector<std::string> names;
  std::ostringstream cases;
  for (const auto& command : commands_of(app)) {
    names.push_back(command.name);
    std::vector<std::string> all;
    cases << "    " << command.name << ")\n      case \"$prev\" in\n";
    for (const auto& option : command.options) {
      const auto flags = flags_of(option);
      all.insert(all.end(), flags.begin(), flags.end());
      if (option.value != Value::none) {
        cases << "        " << join(flags, "|") << ") " << bash_reply(option)
              << "; return ;;\n";
      }
    }
    cases << "      esac\n      if [[ $cur == -* ]]; then\n"
          << "        COMPREPLY=($(compgen -W " << shell_quoted(join(all, " "))
          << " -- \"$cur\"))\n      else\n        "
          << bash_reply(command.positional) << "\n      fi ;;\n";
  }
  out << "# bash completion of qwen3-mlx. Load it with\n"
         "#   source <(qwen3-mlx completion bash)\n"
         "_qwen3_mlx() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]}\n"
         "  local prev=${COMP_WORDS[COMP_CWORD-1]}\n"
         "  if ((COMP_CWORD == 1)); then\n"
         "    COMPREPLY=($(compgen -W "
      << shell_quoted(join(names, " ") + " --help --version")
      << " -- \"$cur\"))\n"
         "    return\n"
         "  fi\n"
         "  case ${COMP_WORDS[1]} in\n"
      << cases.str()
      << "  esac\n"
         "}\n"
         "complete -o filenames -o bashdefault -F _qwen3_mlx qwen3-mlx\n";
  return out.str();
}

std::string zsh_action(const OptionEntry& option) {
  switch (option.value) {
  case Value::none:
    return "";
  case Value::choice:
    return ":value:(" + join(option.choices, " ") + ")";
  case Value::file:
    return ":file:_files";
  case Value::folder:
    return ":folder:_files";
  case Value::any:
    break;
  }
  return ":value:";
}

std::string zsh_script(const CLI::App& app) {
  std::ostringstream out;
  std::ostringstream names;
  std::ostringstream cases;
  for (const auto& command : commands_of(app)) {
    names << "    "
          << shell_quoted(command.name + ":" + escaped(command.help, ":", "\\"))
          << "\n";
    cases << "    " << command.name << ")\n      _arguments";
    for (const auto& option : command.options) {
      const auto rest =
          "[" + escaped(option.help, "[]:\\", "\\") + "]" + zsh_action(option);
      for (const auto& flag : flags_of(option)) {
        cases << " \\\n        "
              << shell_quoted(std::string("*").append(flag).append(rest));
      }
    }
    if (command.positional.value == Value::choice) {
      cases << " \\\n        "
            << shell_quoted(":" + zsh_action(command.positional));
    }
    cases << " ;;\n";
  }
  out << "#compdef qwen3-mlx\n"
         "# zsh completion of qwen3-mlx. Write it to a folder of $fpath:\n"
         "#   qwen3-mlx completion zsh > _qwen3-mlx\n"
         "_qwen3_mlx() {\n"
         "  local -a commands=(\n"
      << names.str()
      << "  )\n"
         "  if ((CURRENT == 2)); then\n"
         "    _describe command commands\n"
         "    return\n"
         "  fi\n"
         "  local command=$words[2]\n"
         "  shift words\n"
         "  ((CURRENT--))\n"
         "  case $command in\n"
      << cases.str()
      << "  esac\n"
         "}\n"
         "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n"
         "  _qwen3_mlx \"$@\"\n"
         "else\n"
         "  compdef _qwen3_mlx qwen3-mlx\n"
         "fi\n";
  return out.str();
}

std::string fish_quoted(std::string_view text) {
  return "'" + escaped(text, "'\\", "\\") + "'";
}

std::string fish_script(const CLI::App& app) {
  std::ostringstream out;
  out << "# fish completion of qwen3-mlx. Load it with\n"
         "#   qwen3-mlx completion fish | source\n"
         "complete -c qwen3-mlx -f\n";
  for (const auto& command : commands_of(app)) {
    out << "complete -c qwen3-mlx -n __fish_use_subcommand -a " << command.name
        << " -d " << fish_quoted(command.help) << "\n";
    const std::string prefix =
        "complete -c qwen3-mlx -n '__fish_seen_subcommand_from " +
        command.name + "'";
    for (const auto& option : command.options) {
      out << prefix;
      for (const auto& name : option.shorts) {
        out << " -s " << name;
      }
      for (const auto& name : option.longs) {
        out << " -l " << name;
      }
      switch (option.value) {
      case Value::none:
        break;
      case Value::any:
        out << " -x";
        break;
      case Value::choice:
        out << " -x -a " << fish_quoted(join(option.choices, " "));
        break;
      case Value::file:
      case Value::folder:
        out << " -r -F";
        break;
      }
      out << " -d " << fish_quoted(option.help) << "\n";
    }
    if (command.positional.value == Value::choice) {
      out << prefix << " -a "
          << fish_quoted(join(command.positional.choices, " ")) << "\n";
    } else if (command.positional.value == Value::file) {
      out << prefix << " -F\n";
    }
  }
  return out.str();
}

} // namespace

std::string completion_script(const CLI::App& app, Shell shell) {
  switch (shell) {
  case Shell::bash:
    return bash_script(app);
  case Shell::zsh:
    return zsh_script(app);
  case Shell::fish:
    break;
  }
  return fish_script(app);
}

void add_completion(CLI::App& app, Exit&) {
  auto* sub =
      app.add_subcommand("completion", "Print a completion script for a shell");
  auto shell = std::make_shared<std::string>();
  sub->add_option("shell", *shell, "The shell to complete for")
      ->required()
      ->type_name("SHELL")
      ->check(CLI::IsMember(std::vector<std::string>{"bash", "zsh", "fish"}));
  sub->footer(
      "\nExamples:\n"
      "  source <(qwen3-mlx completion bash)          # in ~/.bashrc\n"
      "  qwen3-mlx completion zsh > ~/.zfunc/_qwen3-mlx\n"
      "  qwen3-mlx completion fish | source           # in config.fish");
  sub->callback([&app, shell] {
    const std::map<std::string, Shell> shells{
        {"bash", Shell::bash}, {"zsh", Shell::zsh}, {"fish", Shell::fish}};
    std::cout << completion_script(app, shells.at(*shell));
  });
}

} // namespace qwen3_mlx::cli
