// SPDX-License-Identifier: MIT
// qwen3-mlx: parses the command line and maps every exception to a message and
// an exit code, here and nowhere else.

#include <clocale>
#include <exception>
#include <iostream>
#include <new>
#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "hub/hub_error.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx::cli {
namespace {

constexpr std::string_view footer =
    "Each command has its own help: qwen3-mlx COMMAND --help\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

void report(std::string_view message) {
  std::cerr << "qwen3-mlx: " << message << '\n';
}

/// Asked-for text (--help, --version) goes to stdout with status 0; mistakes
/// go to stderr with a pointer to the help of the command in question.
int report_parse_error(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) {
    return app.exit(error);
  }
  std::string command = "qwen3-mlx";
  for (const auto* sub : app.get_subcommands()) {
    command += " " + sub->get_name();
  }
  std::cerr << command << ": " << error.what() << "\nTry '" << command
            << " --help'.\n";
  return Exit::usage;
}

int run(int argc, char** argv) {
  CLI::App app{"Run Qwen and other language models on MLX.", "qwen3-mlx"};
  app.set_version_flag("-V,--version", [] {
    return "qwen3-mlx " QWEN3_MLX_VERSION + backend_version();
  });
  app.require_subcommand(0, 1); // none: told below, after unknown words
  app.get_formatter()->column_width(38);
  app.footer(std::string(footer));

  Exit exit;
  add_commands(app, exit);
  try {
    app.parse(argc, argv);
    if (app.get_subcommands().empty()) {
      throw CLI::RequiredError("A command");
    }
    return exit.code;
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error);
  } catch (const hub::HubError& error) {
    report(error.what());
    return error.fault() == hub::Fault::cancelled ? Exit::interrupted
                                                  : Exit::failed;
  } catch (const InvalidArgument& error) {
    report(error.what());
    return Exit::usage;
  } catch (const std::bad_alloc&) {
    report("out of memory");
  } catch (const std::exception& error) {
    report(error.what());
  }
  return Exit::failed;
}

// Each operation frees what it computed from, and the next one wants as much
// again. glibc would give it back to the system in between and take it again as
// pages to be cleared, a tenth of a prefill's time.
void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

} // namespace
} // namespace qwen3_mlx::cli

int main(int argc, char** argv) {
  qwen3_mlx::cli::keep_freed_memory();
  // Line editing needs to know that the terminal speaks UTF-8. Only the
  // character type is set: numbers are always written with a point.
  std::setlocale(LC_CTYPE, "");
  const int code = qwen3_mlx::cli::run(argc, argv);
  // A full disk or closed pipe must not look like success.
  if (!std::cout.flush()) {
    qwen3_mlx::cli::report("cannot write to standard output");
    return qwen3_mlx::cli::Exit::failed;
  }
  return code;
}
