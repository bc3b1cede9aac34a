// Tokens to a tree, by the grammar of Jinja2 3.1.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "chat/jinja/syntax/ast.h"
#include "chat/jinja/syntax/lexer.h"

namespace mneme::jinja {

// Throws SyntaxError, also for what Jinja2 has and this does not (named).
Body Parse(std::string_view source);

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Body Run();

 private:
  using Ends = std::initializer_list<std::string_view>;

  // Tokens. parser.cc
  const Token& Now() const { return tokens_[at_]; }
  const Token& After() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& Take();
  bool IsOperator(std::string_view text) const;
  bool IsName(std::string_view text) const;
  bool SkipOperator(std::string_view text);
  bool SkipName(std::string_view text);
  void ExpectOperator(std::string_view text);
  void ExpectName(std::string_view text);
  void ExpectBlockEnd();
  std::string TakeName();
  [[noreturn]] void Fail(const std::string& message) const { throw SyntaxError{Now().line, message}; }
  [[noreturn]] void FailUnexpected(const std::string& wanted) const;

  // Statements. parser.cc
  Body ParseUntil(Ends ends);
  // The body behind a tag's head, up to one of the ends, which is left to be taken.
  Body ParseBody(Ends ends);
  std::unique_ptr<Statement> ParseStatement();
  std::unique_ptr<Statement> New(Statement::Kind kind) const;
  std::unique_ptr<Statement> ParseIf();
  std::unique_ptr<Statement> ParseFor();
  std::unique_ptr<Statement> ParseSet();
  std::unique_ptr<Statement> ParseMacro();
  std::unique_ptr<Statement> ParseCall();
  std::unique_ptr<Statement> ParseFilterBlock();
  std::unique_ptr<Statement> ParseWith();
  std::unique_ptr<Statement> ParseGeneration();
  std::unique_ptr<Statement> ParseBlock();
  std::unique_ptr<Statement> ParsePrint();
  std::unique_ptr<Statement> ParseLoopControl();
  void ParseSignature(Statement* macro);
  void ParseMacroBody(Statement* macro, std::string_view end);
  Target ParseTarget(bool ends_at_in);
  Target ParseOneTarget();

  // Expressions. parse_expression.cc
  ExpressionPtr Make(Expression::Kind kind, int line, std::vector<ExpressionPtr> parts = {},
                     std::string name = {}) const;
  ExpressionPtr ParseTuple(bool with_condition = true, std::string_view end_name = {},
                           bool in_brackets = false);
  ExpressionPtr ParseExpression(bool with_condition = true);
  ExpressionPtr ParseConditional();
  ExpressionPtr ParseOr();
  ExpressionPtr ParseAnd();
  ExpressionPtr ParseNot();
  ExpressionPtr ParseCompare();
  ExpressionPtr ParseSum();
  ExpressionPtr ParseConcat();
  ExpressionPtr ParseProduct();
  ExpressionPtr ParsePower();
  ExpressionPtr ParseUnary(bool with_filter = true);
  ExpressionPtr ParsePrimary();
  ExpressionPtr ParseNamed();
  ExpressionPtr ParseNumber();
  ExpressionPtr ParseList();
  ExpressionPtr ParseDict();
  ExpressionPtr ParsePostfix(ExpressionPtr node);
  ExpressionPtr ParseFilters(ExpressionPtr node);
  ExpressionPtr ParseSubscript(ExpressionPtr node);
  ExpressionPtr ParseSubscribed(ExpressionPtr node);
  ExpressionPtr ParseFilter(ExpressionPtr node);
  ExpressionPtr ParseTest(ExpressionPtr node);
  void ParseArguments(Expression* call);
  std::string ParseDottedName();

  // Counts what is open, so that no text can nest so deeply that the stack ends.
  class Nest {
   public:
    explicit Nest(Parser* parser);
    ~Nest() { --parser_->nesting_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    Parser* parser_;
  };

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int num_loops_ = 0;  // around what is parsed, within its macro
};

}  // namespace mneme::jinja
