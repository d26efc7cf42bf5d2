#include "config/help.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "config/keys.h"

namespace moesaic::config {
namespace {

constexpr std::size_t kColumns = 100;

constexpr std::string_view kConfigFiles =
    "A config FILE is INI: [section] headers with key = value, or section.key = value. The command "
    "line wins over the last file, that over an earlier one, that over the default; a later source "
    "replaces a list. # or ; begin a comment at the start of a line or after white space. Lists: "
    "repeat the key or separate with commas; quote a value that has commas or outer spaces. Double "
    "quotes may hold \\n (line break), \\t, \\r, \\\", \\', \\$ and \\\\; in single quotes all "
    "stands for itself. Booleans are 0, 1, false or true; integers also 4e9 or 64Ki; durations 90 "
    "s, 20 min, 3:55:00 or bare seconds; sizes 16GiB. ${NAME} and ~ are expanded. Relative paths "
    "are relative to the current folder.";

constexpr std::string_view kExitCodes =
    "Exit codes: 0 done; 64 usage or config; 65 bad data; 66 input missing; 70 internal error; 73 "
    "an output cannot be created; 74 a read or write failed; 75 stopped early with a new "
    "checkpoint, run it again; 76 ranks, binary or checkpoint disagree; 77 the numbers went bad.";

/// The words of text in lines of at most kColumns, each after `indent` spaces.
std::string wrapped(std::string_view text, std::size_t indent) {
  std::string all;
  std::string line;
  for (const std::string& word : split(text, ' ')) {
    if (!line.empty() && indent + line.size() + 1 + word.size() > kColumns) {
      all += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return all + std::string(indent, ' ') + line + "\n";
}

std::string default_text(const Key& key) { return key.text(Config{}); }

std::string key_help(const Key& key) {
  std::string facts = key.type;
  if (!key.unit.empty()) {
    facts += ", unit " + key.unit;
  }
  if (!key.range.empty()) {
    facts += ", " + key.range;
  }
  const std::string value = default_text(key);
  facts += value.empty() ? "; default empty" : "; default " + value;
  return wrapped(fmt::format("--{}  ({})", key.name, facts), 2) + wrapped(key.help, 8);
}

std::string general_help() {
  std::string text =
      "moesaic trains and runs Mixture-of-Experts language models.\n\n"
      "Usage: moesaic JOB [ARGUMENT]... [--config FILE]... [--section.key VALUE]...\n"
      "       mpirun -n N moesaic JOB ...\n"
      "       moesaic JOB --help | --help | --version\n\nJobs:\n";
  for (const Job& job : jobs()) {
    text += fmt::format("  {}\n{}", job.name, wrapped(job.what, 6));
  }
  text += '\n';
  text += wrapped(
      "Each job explains itself and lists the keys that it reads with moesaic JOB --help. A first "
      "run, in this order:",
      0);
  for (const char* const name : {"tokenize", "plan", "train", "score", "generate"}) {
    text += "  " + find_job(name)->example + "\n";
  }
  return fmt::format("{}\n{}\n{}", text, wrapped(kConfigFiles, 0), wrapped(kExitCodes, 0));
}

std::string markdown_cell(const std::string& text) { return join(split(text, '|'), "\\|"); }

}  // namespace

const std::vector<Job>& jobs() {
  static const std::vector<Job> all = {
      {"tokenize", "moesaic tokenize --tokenize.input PATH --tokenize.output DIR", false,
       "Makes a sharded corpus with a manifest from text or JSONL files and folders. Ranks share "
       "the work; the corpus is the same for any number of them.",
       "moesaic tokenize --tokenize.input text/ --tokenize.output corpus --tokenize.holdout 0.02"},
      {"train", "moesaic train --config FILE [--section.key VALUE]...", false,
       "Trains a model on a corpus and writes checkpoints and a trace. Started again with the same "
       "run.dir it continues from its newest checkpoint. USR1, USR2, TERM or INT stop it well at "
       "the next step.",
       "mpirun -n 2 moesaic train --config configs/train.cfg --run.dir runs/first"},
      {"score", "moesaic score --model.path PATH --data.corpus PATH --score.output PATH", false,
       "Writes the log-probability of every token of a corpus under a trained model, and the "
       "perplexity.",
       "moesaic score --model.path runs/first/checkpoints --data.corpus corpus/heldout "
       "--score.output s.h5"},
      {"generate", "moesaic generate --model.path PATH --data.corpus PATH --generate.output X.h5",
       false,
       "Continues every document of a corpus, or what is given of it where it has context and "
       "continuation, with a trained model. Killed at any time and started again, it writes each "
       "continuation exactly once.",
       "moesaic generate --model.path runs/first/checkpoints --data.corpus prompts "
       "--generate.output g.h5"},
      {"plan", "moesaic plan --config FILE [--plan.ranks N]", false,
       "Says, without training, how many parameters a model has, how much memory each rank needs, "
       "what a token costs and what the ranks exchange; checks the config exactly as the job "
       "would.",
       "moesaic plan --config configs/train.cfg --plan.ranks 8"},
      {"experts", "moesaic experts add|remove|clone|promote PATH OUT", true,
       "Changes the experts of a checkpoint and writes it to the folder OUT: add makes fresh ones, "
       "clone copies one with a little noise, remove retires, promote makes spares regular. Ids of "
       "experts are not used again. Training continues from it, and score reads it.",
       "moesaic experts clone runs/first/checkpoints grown --experts.count 2"},
      {"convert", "moesaic convert IN OUT", true,
       "Makes a checkpoint to start from out of a Hugging Face folder, or such a folder out of a "
       "checkpoint; with convert.quantize, a small checkpoint for score and generate out of "
       "either. Then both compute the same tokens and are compared. train and score read folders "
       "as they are, with model.path.",
       "moesaic convert runs/first/checkpoints exported --convert.dtype bf16"},
      {"verify", "moesaic verify PATH...", true,
       "Checks corpora, checkpoints, Hugging Face folders, traces, routing records, scores and "
       "continuations, and says what is wrong with them.",
       "moesaic verify corpus/train runs/first/checkpoints"},
  };
  return all;
}

const Job* find_job(std::string_view name) {
  const auto found =
      std::find_if(jobs().begin(), jobs().end(), [&](const Job& job) { return job.name == name; });
  return found == jobs().end() ? nullptr : &*found;
}

std::string help_text(const std::string& job_name) {
  const Job* const job = find_job(job_name);
  if (job == nullptr) {
    return general_help();
  }
  std::string text = fmt::format("Usage: {}\n\n{}\nExample:\n  {}\n", job->usage,
                                 wrapped(job->what, 0), job->example);
  std::string section;
  for (const Key& key : keys()) {
    if (key.read_by(job->name)) {
      if (key.section() != section) {
        section = key.section();
        text += fmt::format("\n[{}]\n", section);
      }
      text += key_help(key);
    }
  }
  return fmt::format("{}\n{}\n{}", text, wrapped(kConfigFiles, 0), wrapped(kExitCodes, 0));
}

std::string keys_markdown() {
  std::string text =
      "# Configuration\n\nEvery key, its default and what it does. This file is "
      "made from the program's own table of keys.\n\n";
  text += wrapped(kConfigFiles, 0);
  std::string section;
  for (const Key& key : keys()) {
    if (key.section() != section) {
      section = key.section();
      text += fmt::format(
          "\n## {}\n\n| key | default | type | unit | range | read by | what |\n"
          "|---|---|---|---|---|---|---|\n",
          section);
    }
    const std::string value = default_text(key);
    text += fmt::format("| `{}` | {} | {} | {} | {} | {} | {} |\n", key.name,
                        value.empty() ? "" : "`" + value + "`", markdown_cell(key.type), key.unit,
                        key.range, join(key.jobs, ", "), markdown_cell(key.help));
  }
  return text;
}

}  // namespace moesaic::config
