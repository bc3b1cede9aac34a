// Documents that name a path, a verb, an option, a make target or a preset name one that exists.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "repository.h"

namespace mneme::repository {
namespace {

// What documents are compared with; tests of the checker give their own.
struct Facts {
  std::function<bool(const std::string& path)> path_exists;
  // Help text of a command line such as "run" or "eval perplexity"; empty for an unknown verb.
  std::function<std::string(const std::string& verb)> help;
  std::set<std::string> make_targets;
  std::set<std::string> presets;
};

struct Code {
  std::string text;
  bool is_block;
};

// Code spans and the lines of code blocks, with continued lines joined. HTML comments are left out.
std::vector<Code> CodeOf(std::string text) {
  text = std::regex_replace(text, std::regex("<!--[^]*?-->"), "");
  std::vector<Code> code;
  bool in_block = false;
  std::string paragraph;
  const auto take_spans = [&] {
    static const std::regex span("`([^`]+)`");
    for (std::sregex_iterator at(paragraph.begin(), paragraph.end(), span), end; at != end; ++at) {
      code.push_back({(*at)[1], false});
    }
    paragraph.clear();
  };
  std::string continued;
  for (const std::string& line : Lines(text)) {
    if (line.find("```") != std::string::npos) {
      take_spans();
      in_block = !in_block;
      continue;
    }
    const bool is_indented_code = !in_block && line.starts_with("    ") && paragraph.empty();
    if (in_block || is_indented_code) {
      if (line.ends_with("\\")) {
        continued += line.substr(0, line.size() - 1);
        continue;
      }
      code.push_back({continued + line, true});
      continued.clear();
    } else if (line.empty()) {
      take_spans();
    } else {
      paragraph += line + " ";
    }
  }
  take_spans();
  return code;
}

std::vector<std::string> Words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// A word that claims to be a path of the repository: it starts with one of our folders, or is a file at the
// top.
bool IsPath(const std::string& word) {
  static const std::regex path(
      R"re(^(\.?/)?(src|docs|tests|fuzz|examples|scripts|cmake|bench|recipes|models|\.ci)/[A-Za-z0-9_./-]*$)re");
  static const std::regex top(
      R"re(^(README|CONTRIBUTING|CHANGELOG|CMakeLists|CMakePresets)\.(md|txt|json)$)re");
  return std::regex_match(word, path) || std::regex_match(word, top);
}

std::string Trimmed(std::string word) {
  while (!word.empty() && std::string(".,;:)").find(word.back()) != std::string::npos &&
         !word.ends_with("/")) {
    word.pop_back();
  }
  while (!word.empty() && word.front() == '(') word.erase(0, 1);
  return word;
}

// Whether a help text lists an option: as a whole word.
bool Lists(const std::string& help, const std::string& option) {
  const auto is_part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  };
  for (size_t at = help.find(option); at != std::string::npos; at = help.find(option, at + 1)) {
    const bool starts = at == 0 || !is_part(help[at - 1]);
    const size_t end = at + option.size();
    if (starts && (end == help.size() || !is_part(help[end]))) return true;
  }
  return false;
}

bool IsOption(const std::string& word) {
  static const std::regex option("^--?[a-z][a-z0-9-]*$");
  return std::regex_match(word, option);
}

// Options and verb of one `mneme ...` command.
void CheckCommand(const std::vector<std::string>& words, const Facts& facts,
                  std::vector<std::string>* wrong) {
  static const std::set<std::string> groups = {"eval"};
  static const std::regex verb_like("^[a-z][a-z-]*$");
  if (words.size() < 2) return;
  std::string verb;
  size_t at = 1;
  if (std::regex_match(words[1], verb_like)) {
    verb = words[at++];
    if (groups.count(verb) != 0 && words.size() > at && std::regex_match(words[at], verb_like))
      verb += " " + words[at++];
    if (facts.help(verb).empty()) {
      wrong->push_back("mneme " + verb + ": no such verb");
      return;
    }
  } else if (words[1][0] != '-') {
    return;  // "mneme VERB", "mneme is ..."
  }
  const std::string help = facts.help(verb);
  for (; at < words.size(); ++at) {
    const std::string option = words[at].substr(0, words[at].find('='));
    if (IsOption(option) && !Lists(help, option)) wrong->push_back("mneme " + verb + ": no option " + option);
  }
}

void CheckWords(const std::vector<std::string>& words, const Code& code, const Facts& facts,
                std::vector<std::string>* wrong) {
  const auto name = [](const std::string& word) {
    return word.substr(word.rfind('/') == std::string::npos ? 0 : word.rfind('/') + 1);
  };
  if (name(words[0]) == "mneme") CheckCommand(words, facts, wrong);
  if (words[0] == "make" && words.size() > 1) {
    for (size_t i = 1; i < words.size(); ++i) {
      static const std::regex target("^[a-z]+$");
      if (std::regex_match(words[i], target) && facts.make_targets.count(words[i]) == 0) {
        wrong->push_back("make " + words[i] + ": no such target");
      }
    }
  }
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "--preset" && facts.presets.count(words[i + 1]) == 0) {
      wrong->push_back("no preset " + words[i + 1]);
    }
  }
  // A span that starts with an option speaks of some verb's.
  static const std::vector<std::string> verbs = {"",
                                                 "run",
                                                 "chat",
                                                 "inspect",
                                                 "plan",
                                                 "bench",
                                                 "calibrate",
                                                 "convert",
                                                 "store ls",
                                                 "store check",
                                                 "store rm",
                                                 "tokenize",
                                                 "template",
                                                 "train",
                                                 "adapt",
                                                 "eval logits",
                                                 "eval perplexity",
                                                 "eval speed",
                                                 "eval passkey",
                                                 "eval needle",
                                                 "eval ruler",
                                                 "eval stream",
                                                 "eval longbench",
                                                 "eval infinitebench",
                                                 "eval babi",
                                                 "eval summary",
                                                 "eval suite",
                                                 "eval compare"};
  if (!code.is_block && words[0].starts_with("--")) {
    const std::string option = words[0].substr(0, words[0].find('='));
    if (IsOption(option) && std::none_of(verbs.begin(), verbs.end(), [&](const std::string& verb) {
          return Lists(facts.help(verb), option);
        })) {
      wrong->push_back("no verb has the option " + option);
    }
  }
}

std::vector<std::string> Wrong(const std::string& text, const Facts& facts) {
  std::vector<std::string> wrong;
  for (const Code& code : CodeOf(text)) {
    // Each command of a line by itself; what follows # is a comment.
    std::string line = code.text;
    if (code.is_block) line = line.substr(0, line.find(" #"));
    static const std::regex separator(R"re(\||&&|;)re");
    for (std::sregex_token_iterator at(line.begin(), line.end(), separator, -1), end; at != end; ++at) {
      const std::vector<std::string> words = Words(*at);
      if (words.empty()) continue;
      CheckWords(words, code, facts, &wrong);
      for (const std::string& word : words) {
        const std::string path = Trimmed(word);
        if (IsPath(path) && !facts.path_exists(path)) wrong.push_back(path + ": no such file or folder");
      }
    }
  }
  // Links to files.
  static const std::regex link(R"re(\]\(([^)#]+)(#[^)]*)?\))re");
  const std::string shown = std::regex_replace(text, std::regex("<!--[^]*?-->"), "");
  for (std::sregex_iterator at(shown.begin(), shown.end(), link), end; at != end; ++at) {
    const std::string target = (*at)[1];
    if (target.find("://") == std::string::npos && !facts.path_exists(target)) {
      wrong.push_back(target + ": link to a file that does not exist");
    }
  }
  return wrong;
}

std::set<std::string> Matches(const std::filesystem::path& file, const std::regex& pattern) {
  std::set<std::string> found;
  for (const std::string& line : Lines(ReadFile(file))) {
    for (std::sregex_iterator at(line.begin(), line.end(), pattern), end; at != end; ++at) {
      for (const std::string& word : Words((*at)[1])) found.insert(word);
    }
  }
  return found;
}

std::string HelpOf(const std::string& verb) {
  static std::map<std::string, std::string> cache;
  const auto [entry, is_new] = cache.try_emplace(verb);
  if (is_new) {
    const std::string help = OutputOf("'" MNEME_PROGRAM "' " + verb + " --help");
    // An unknown verb has no help of its own.
    if (help.find("unknown command") == std::string::npos &&
        help.find("unexpected argument") == std::string::npos) {
      entry->second = help;
    }
  }
  return entry->second;
}

TEST(Documents, NameOnlyWhatExists) {
  std::vector<std::filesystem::path> documents;
  for (const char* name : {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"})
    documents.push_back(Root() / name);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(Root() / "docs")) {
    if (entry.path().extension() == ".md") documents.push_back(entry.path());
  }
  Facts facts;
  facts.help = HelpOf;
  facts.make_targets = Matches(Root() / "Makefile", std::regex("^([a-z][a-z ]*):"));
  facts.presets = Matches(Root() / "CMakePresets.json", std::regex(R"re("name": "([a-z]+)")re"));
  for (const std::filesystem::path& document : documents) {
    const std::string text = ReadFile(document);
    ASSERT_FALSE(text.empty()) << document;
    facts.path_exists = [&](const std::string& path) {
      return std::filesystem::exists(document.parent_path() / path) || std::filesystem::exists(Root() / path);
    };
    for (const std::string& wrong : Wrong(text, facts)) {
      ADD_FAILURE() << std::filesystem::relative(document, Root()).string() << ": " << wrong;
    }
  }
}

TEST(Documents, ReadmeHasEveryContextOfTheProgram) {
  const std::string help = HelpOf("run");
  const size_t begin = help.find("Contexts (--context");
  ASSERT_NE(begin, std::string::npos);
  static const std::regex row("^  ([a-z]+) +[^ ]");
  const std::string readme = ReadFile(Root() / "README.md");
  size_t num_contexts = 0;
  for (const std::string& line : Lines(help.substr(begin, help.find("Examples:", begin) - begin))) {
    std::smatch match;
    if (!std::regex_search(line, match, row)) continue;
    ++num_contexts;
    EXPECT_NE(readme.find("\n| `" + match[1].str() + "` |"), std::string::npos)
        << "the table of contexts in README.md has no row for " << match[1];
  }
  EXPECT_GE(num_contexts, 6u);
}

TEST(Documents, TheCheckFindsWhatItShould) {
  Facts facts;
  facts.path_exists = [](const std::string& path) { return path == "src/base/error.h" || path == "docs/"; };
  facts.help = [](const std::string& verb) -> std::string {
    return verb == "run" ? "--memory BYTES -f,--file FILE" : verb == "" ? "--help" : "";
  };
  facts.make_targets = {"test"};
  facts.presets = {"asan"};
  EXPECT_TRUE(
      Wrong("See `src/base/error.h`, `docs/` and [it](src/base/error.h#x) or [web](https://a.b).", facts)
          .empty());
  EXPECT_TRUE(
      Wrong("```sh\nmneme run m.gguf -f a | wc --lines  # --nothing\nmake test\n```\n", facts).empty());
  EXPECT_TRUE(Wrong("Add `src/context/NAME` with `--memory 1G`, <!-- `src/no` -->.", facts).size() == 1u);
  EXPECT_EQ(Wrong("`src/base/gone.h`", facts).size(), 1u);
  EXPECT_EQ(Wrong("over two\nlines `scripts/gone.sh\n1`", facts).size(), 1u);
  EXPECT_EQ(Wrong("[it](gone.md)", facts).size(), 1u);
  EXPECT_EQ(Wrong("    mneme dance\n", facts).size(), 1u);
  EXPECT_EQ(Wrong("```\n./build/mneme run \\\n  --mem 1\n```", facts).size(), 1u);
  EXPECT_EQ(Wrong("`mneme run -x`", facts).size(), 1u);
  EXPECT_EQ(Wrong("`--memry 1G`", facts).size(), 1u);
  EXPECT_EQ(Wrong("`make tests`", facts).size(), 1u);
  EXPECT_EQ(Wrong("`cmake --preset fast`", facts).size(), 1u);
}

}  // namespace
}  // namespace mneme::repository
