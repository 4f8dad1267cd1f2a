// SPDX-License-Identifier: MIT
// qwen3-mlx chat: a conversation on the terminal.

#include <exception>
#include <iostream>
#include <memory>
#include <optional>

#include "cli/cache_options.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"
#include "cli/model_options.h"
#include "cli/numbers.h"
#include "cli/sampling_options.h"
#include "cli/terminal.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

constexpr const char* chat_help =
    "  /clear         forget the conversation\n"
    "  /system TEXT   set the system message; without TEXT remove it\n"
    "  /save FILE     write the conversation's text to a file (a saved prompt\n"
    "                 with keys and values: qwen3-mlx cache-prompt)\n"
    "  /load FILE     go on with a conversation from a file, which the model\n"
    "                 reads again with the next question\n"
    "  /stats         statistics after each answer, on or off\n"
    "  /thinking      show the model's thinking, on or off\n"
    "  /quit          leave; so does Ctrl-D\n"
    "A line that ends with \\ goes on in the next one. Ctrl-C stops an "
    "answer.\n";

struct ChatCommand {
  ModelOptions model;
  SamplingOptions sampling;
  KvOptions kv;
  TemplateOptions chat_template;
  std::string system_prompt;
  int max_tokens = 2048;
  int prefill_step_size = 2048;
  std::vector<std::string> extra_eos_tokens;
  bool hide_thinking = false;
  bool verbose = false;
  bool no_history = false;
};

/// Writes an answer as it comes: thinking dim, or a word in its place.
class AnswerPrinter {
 public:
  AnswerPrinter(bool hide_thinking, bool style)
      : hide_thinking_(hide_thinking), style_(style) {}

  void operator()(std::string_view text, bool is_thinking) {
    if (is_thinking != in_thinking_) {
      is_thinking ? begin_thinking() : end_thinking();
    }
    if (!is_thinking || !hide_thinking_) {
      std::cout << text << std::flush;
    }
  }

  void finish() {
    if (in_thinking_) {
      end_thinking();
    }
    std::cout << "\n" << std::flush;
  }

 private:
  void begin_thinking() {
    in_thinking_ = true;
    std::cout << (style_ ? dim_on : "");
    if (hide_thinking_ && style_) {
      std::cout << "Thinking..." << std::flush;
    }
  }

  void end_thinking() {
    in_thinking_ = false;
    if (hide_thinking_) {
      std::cout << (style_ ? "\r\x1b[K" : "");
    } else {
      std::cout << "\n\n";
    }
    std::cout << (style_ ? dim_off : "");
  }

  bool hide_thinking_;
  bool style_;
  bool in_thinking_ = false;
};

class ChatLoop {
 public:
  ChatLoop(const ChatCommand& options, ChatSession session, Model model)
      : session_(std::move(session)), hide_thinking_(options.hide_thinking),
        statistics_(options.verbose), params_(sampling_params(
                                          options.sampling,
                                          model.generation_config(),
                                          model.args().vocab_size)),
        editor_(
            options.no_history ? std::filesystem::path()
                               : default_history_file()) {
    generate_.max_tokens = options.max_tokens;
    generate_.prefill_step_size = options.prefill_step_size;
  }

  void set_stop_ids(std::vector<std::uint32_t> ids) {
    params_.xtc_special_tokens = ids;
    generate_.stop_ids = std::move(ids);
  }

  /// Throws InvalidArgument for what would make every answer fail.
  void check(const Model& model) const {
    validate(params_, model.args().vocab_size);
  }

  /// Until the input ends or /quit. Returns whether nothing went wrong.
  bool run() {
    bool all_well = true;
    // The line editor shows its prompt before it takes Ctrl-C for a key.
    std::optional<InterruptsIgnored> ignored;
    if (stdin_is_terminal()) {
      ignored.emplace();
    }
    while (const auto line = read_message()) {
      if (line->empty()) {
        continue;
      }
      editor_.add_history(*line);
      // What goes wrong in one turn is told, and the conversation goes on.
      try {
        if (line->front() == '/') {
          if (!run_command(*line)) {
            break;
          }
        } else {
          answer(*line);
        }
      } catch (const std::exception& error) { // memory may run out as well
        std::cerr << "qwen3-mlx: " << error.what() << '\n';
        all_well = false;
      }
    }
    return all_well;
  }

 private:
  std::optional<std::string> read_message() {
    auto line = editor_.read_line(">>> ");
    while (line.has_value() && line->ends_with('\\')) {
      line->back() = '\n';
      const auto more = editor_.read_line("... ");
      if (!more.has_value()) {
        break;
      }
      *line += *more;
    }
    return line;
  }

  void answer(const std::string& text) {
    const InterruptScope interrupt;
    generate_.cancelled = [&interrupt] { return interrupt.requested(); };
    AnswerPrinter printer(hide_thinking_, stdout_takes_style());
    const auto answer = session_.ask(
        text,
        params_,
        generate_,
        [&printer](std::string_view piece, bool thinking) {
          printer(piece, thinking);
        });
    printer.finish();
    if (answer.finish_reason == FinishReason::cancelled) {
      std::cerr << "(stopped)\n";
    } else if (answer.finish_reason == FinishReason::length) {
      std::cerr << "(stopped after --max-tokens " << generate_.max_tokens
                << ")\n";
    }
    if (statistics_) {
      std::cerr << describe_timings(answer);
    }
  }

  /// False when the conversation is to end.
  bool run_command(const std::string& line) {
    const auto space = line.find(' ');
    const auto name = line.substr(0, space);
    auto argument =
        space == std::string::npos ? std::string() : line.substr(space + 1);
    argument.erase(argument.find_last_not_of(' ') + 1);
    if (name == "/quit" || name == "/exit") {
      return false;
    }
    if (name == "/help") {
      std::cout << chat_help;
    } else if (name == "/clear") {
      session_.clear();
    } else if (name == "/system") {
      session_.set_system_prompt(argument);
    } else if (name == "/save") {
      session_.save(required_file(name, argument));
      std::cerr << "Saved " << session_.num_messages() << " messages\n";
    } else if (name == "/load") {
      session_.load(required_file(name, argument));
      std::cerr << "Loaded " << session_.num_messages()
                << " messages, to be read with the next question\n";
    } else if (name == "/stats") {
      statistics_ = !statistics_;
    } else if (name == "/thinking") {
      hide_thinking_ = !hide_thinking_;
    } else {
      throw InvalidArgument("unknown command " + name + "; /help lists them");
    }
    return true;
  }

  static const std::string&
  required_file(const std::string& command, const std::string& argument) {
    if (argument.empty()) {
      throw InvalidArgument(command + " needs the name of a file");
    }
    return argument;
  }

  ChatSession session_;
  bool hide_thinking_;
  bool statistics_;
  SamplingParams params_;
  GenerateOptions generate_;
  LineEditor editor_;
};

void run(const ChatCommand& options, Exit& exit) {
  const auto tokenizer = load_tokenizer(options.model.model);
  PromptRenderer renderer(options.model.model, options.chat_template);
  warn_of_fallback(renderer);
  const auto kv = cache_options(options.kv);
  const auto model = load_with_progress(options.model);
  ChatSession session(model, tokenizer, std::move(renderer), kv);
  session.set_system_prompt(options.system_prompt);
  ChatLoop loop(options, std::move(session), model);
  loop.set_stop_ids(stop_ids(model, &tokenizer, options.extra_eos_tokens));
  loop.check(model);
  if (stdin_is_terminal() && stdout_is_terminal()) {
    std::cout << "Chat with " << options.model.name
              << "; /help tells more, /quit leaves.\n";
  }
  // A person has read what went wrong; a script has only the status.
  if (!loop.run() && !stdin_is_terminal()) {
    exit.code = Exit::failed;
  }
}

} // namespace

void add_chat(CLI::App& app, Exit& exit) {
  auto options = std::make_shared<ChatCommand>();
  auto* command = app.add_subcommand("chat", "Talk with a model");
  add_model_options(*command, options->model);
  const char* prompt = "Prompt";
  command
      ->add_option(
          "--system-prompt,--sys",
          options->system_prompt,
          "What the system message says")
      ->type_name("TEXT")
      ->group(prompt);
  command
      ->add_flag(
          "--use-default-chat-template",
          options->chat_template.use_default,
          "Use ChatML, whatever the model has")
      ->group(prompt);
  command
      ->add_option(
          "--chat-template-file",
          options->chat_template.file,
          "Use this Jinja template")
      ->type_name("FILE")
      ->excludes("--use-default-chat-template")
      ->group(prompt);
  command
      ->add_option(
          "--chat-template-config,--chat-template-kwargs",
          options->chat_template.config,
          "Variables of the template, a JSON object")
      ->type_name("JSON")
      ->group(prompt);
  const char* answer = "Answer";
  command
      ->add_option(
          "-m,--max-tokens,-n,--predict,--n-predict",
          options->max_tokens,
          "Most tokens of one answer")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->group(answer);
  command
      ->add_option(
          "--extra-eos-token",
          options->extra_eos_tokens,
          "One more token, or its id, that ends an answer")
      ->type_name("TOKEN")
      ->allow_extra_args(false)
      ->group(answer);
  command
      ->add_option(
          "--prefill-step-size,-b,--batch-size",
          options->prefill_step_size,
          "Prompt tokens read at once")
      ->capture_default_str()
      ->type_name("N")
      ->transform(whole_number(1))
      ->group(answer);
  const char* output = "Output";
  command
      ->add_flag(
          "--hide-thinking", options->hide_thinking, "Do not show thinking")
      ->group(output);
  command
      ->add_flag("--verbose", options->verbose, "Statistics after each answer")
      ->group(output);
  command
      ->add_flag(
          "--no-history", options->no_history, "Keep no history of lines")
      ->group(output);
  add_sampling_options(*command, options->sampling);
  add_kv_options(*command, options->kv);
  command->footer(
      std::string("\nWhile chatting:\n") + chat_help +
      "\nExample:\n"
      "  qwen3-mlx chat --model DIR --sys \"Answer in one sentence.\"");
  command->callback([options, &exit] {
    find_model(options->model);
    run(*options, exit);
  });
}

} // namespace qwen3_mlx::cli
