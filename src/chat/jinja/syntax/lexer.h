// A template as tokens, with white space controlled as transformers sets Jinja2 up: the first line feed after
// a block is dropped (trim_blocks), white space before a block on its line too (lstrip_blocks), and the last
// line feed of the file.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mneme::jinja {

struct Token {
  enum class Kind {
    kText,
    kBlockBegin,
    kBlockEnd,
    kOutputBegin,
    kOutputEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind;
  int line;
  std::string text;  // of a string: what it stands for
};

// Ends with a kEnd. Throws SyntaxError.
std::vector<Token> Tokenize(std::string_view source);

struct SyntaxError {
  int line;
  std::string message;
};

}  // namespace mneme::jinja
