#include "chat/jinja/syntax/parser.h"

#include <fmt/format.h>

#include <algorithm>

#include "chat/jinja/values/format.h"

namespace mneme::jinja {
namespace {

std::string Describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kText:
      return "text";
    case Token::Kind::kBlockBegin:
      return "begin of statement block";
    case Token::Kind::kBlockEnd:
      return "end of statement block";
    case Token::Kind::kOutputBegin:
      return "begin of print statement";
    case Token::Kind::kOutputEnd:
      return "end of print statement";
    case Token::Kind::kString:
      return "a string";
    case Token::Kind::kEnd:
      return "end of template";
    default:
      return "'" + token.text + "'";
  }
}

// Whether a body mentions one of the names that make a macro take more than its parameters.
void FindSpecialNames(const std::vector<Token>& tokens, size_t begin, size_t end, Statement* macro) {
  for (size_t i = begin; i < end; ++i) {
    if (tokens[i].kind != Token::Kind::kName) continue;
    macro->uses_varargs |= tokens[i].text == "varargs";
    macro->uses_kwargs |= tokens[i].text == "kwargs";
    macro->uses_caller |= tokens[i].text == "caller";
  }
}

}  // namespace

Parser::Nest::Nest(Parser* parser) : parser_(parser) {
  if (++parser_->nesting_ > kMaxSyntaxDepth) parser_->Fail("this is nested too deeply");
}

const Token& Parser::Take() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::IsOperator(std::string_view text) const {
  return Now().kind == Token::Kind::kOperator && Now().text == text;
}
bool Parser::IsName(std::string_view text) const {
  return Now().kind == Token::Kind::kName && Now().text == text;
}

bool Parser::SkipOperator(std::string_view text) {
  if (!IsOperator(text)) return false;
  Take();
  return true;
}

bool Parser::SkipName(std::string_view text) {
  if (!IsName(text)) return false;
  Take();
  return true;
}

void Parser::FailUnexpected(const std::string& wanted) const {
  Fail(fmt::format("expected {}, got {}", wanted, Describe(Now())));
}

void Parser::ExpectOperator(std::string_view text) {
  if (!SkipOperator(text)) FailUnexpected(fmt::format("'{}'", text));
}
void Parser::ExpectName(std::string_view text) {
  if (!SkipName(text)) FailUnexpected(fmt::format("'{}'", text));
}
void Parser::ExpectBlockEnd() {
  if (Now().kind != Token::Kind::kBlockEnd) FailUnexpected("end of statement block");
  Take();
}

std::string Parser::TakeName() {
  if (Now().kind != Token::Kind::kName) FailUnexpected("a name");
  return Take().text;
}

std::unique_ptr<Statement> Parser::New(Statement::Kind kind) const {
  auto statement = std::make_unique<Statement>();
  statement->kind = kind;
  statement->line = Now().line;
  return statement;
}

Body Parser::ParseUntil(Ends ends) {
  const Nest nest(this);
  Body body;
  while (Now().kind != Token::Kind::kEnd) {
    if (Now().kind == Token::Kind::kText) {
      body.push_back(New(Statement::Kind::kText));
      body.back()->text = Take().text;
    } else if (Now().kind == Token::Kind::kOutputBegin) {
      Take();
      body.push_back(New(Statement::Kind::kOutput));
      body.back()->expressions.push_back(ParseTuple());
      if (Now().kind != Token::Kind::kOutputEnd) FailUnexpected("end of print statement");
      Take();
    } else {
      Take();  // kBlockBegin: nothing else stands outside of tags
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return IsName(end); }))
        return body;
      body.push_back(ParseStatement());
      ExpectBlockEnd();
    }
  }
  if (ends.size() > 0) {
    Fail(fmt::format("unexpected end of template: {} is missing", fmt::join(ends, " or ")));
  }
  return body;
}

Body Parser::ParseBody(Ends ends) {
  SkipOperator(":");
  ExpectBlockEnd();
  return ParseUntil(ends);
}

std::unique_ptr<Statement> Parser::ParseStatement() {
  if (Now().kind != Token::Kind::kName) FailUnexpected("the name of a tag");
  const std::string& name = Now().text;
  if (name == "if") return ParseIf();
  if (name == "for") return ParseFor();
  if (name == "set") return ParseSet();
  if (name == "macro") return ParseMacro();
  if (name == "call") return ParseCall();
  if (name == "filter") return ParseFilterBlock();
  if (name == "with") return ParseWith();
  if (name == "generation") return ParseGeneration();
  if (name == "print") return ParsePrint();
  if (name == "block") return ParseBlock();
  if (name == "break" || name == "continue") return ParseLoopControl();
  constexpr std::string_view kNotHere[] = {"extends", "include", "import", "from", "autoescape"};
  if (std::find(std::begin(kNotHere), std::end(kNotHere), name) != std::end(kNotHere)) {
    Fail(fmt::format("the tag '{}' is not known here: a chat template is one file", name));
  }
  Fail(fmt::format("unknown tag '{}'", name));
}

std::unique_ptr<Statement> Parser::ParseIf() {
  auto statement = New(Statement::Kind::kIf);
  while (true) {
    Take();  // if, elif
    Statement::Branch branch;
    branch.condition = ParseTuple(/*with_condition=*/false);
    branch.body = ParseBody({"elif", "else", "endif"});
    statement->branches.push_back(std::move(branch));
    if (IsName("elif")) continue;
    if (SkipName("else")) statement->otherwise = ParseBody({"endif"});
    ExpectName("endif");
    return statement;
  }
}

std::unique_ptr<Statement> Parser::ParseFor() {
  auto statement = New(Statement::Kind::kFor);
  Take();
  statement->targets.push_back(ParseTarget(/*ends_at_in=*/true));
  ExpectName("in");
  statement->expressions.push_back(ParseTuple(/*with_condition=*/false, "recursive"));
  if (SkipName("if")) statement->condition = ParseExpression();
  statement->is_recursive = SkipName("recursive");
  ++num_loops_;
  statement->body = ParseBody({"endfor", "else"});
  --num_loops_;
  if (SkipName("else")) statement->otherwise = ParseBody({"endfor"});
  ExpectName("endfor");
  return statement;
}

Target Parser::ParseOneTarget() {
  Target target;
  if (SkipOperator("(")) {
    target = ParseTarget(/*ends_at_in=*/false);
    ExpectOperator(")");
    return target;
  }
  target.name = TakeName();
  constexpr std::string_view kFixed[] = {"true", "false", "none", "True", "False", "None"};
  if (std::find(std::begin(kFixed), std::end(kFixed), target.name) != std::end(kFixed)) {
    Fail(fmt::format("can't assign to {}", target.name));
  }
  if (SkipOperator(".")) target.attribute = TakeName();
  return target;
}

// a; a.b; a, b; (a, b), c
Target Parser::ParseTarget(bool ends_at_in) {
  const Nest nest(this);
  Target tuple;
  tuple.is_tuple = true;
  while (true) {
    tuple.parts.push_back(ParseOneTarget());
    if (!SkipOperator(",")) break;
    if ((ends_at_in && IsName("in")) || IsOperator("=") || IsOperator(")")) return tuple;
  }
  return tuple.parts.size() == 1 ? std::move(tuple.parts[0]) : std::move(tuple);
}

std::unique_ptr<Statement> Parser::ParseSet() {
  auto statement = New(Statement::Kind::kSet);
  Take();
  statement->targets.push_back(ParseTarget(/*ends_at_in=*/false));
  if (SkipOperator("=")) {
    statement->expressions.push_back(ParseTuple());
    return statement;
  }
  statement->kind = Statement::Kind::kSetBlock;
  ExpressionPtr filters;
  while (SkipOperator("|")) filters = ParseFilter(std::move(filters));
  statement->expressions.push_back(std::move(filters));
  statement->body = ParseBody({"endset"});
  Take();
  return statement;
}

void Parser::ParseSignature(Statement* macro) {
  ExpectOperator("(");
  while (!IsOperator(")")) {
    if (!macro->parameters.empty()) ExpectOperator(",");
    Statement::Parameter parameter{TakeName(), nullptr};
    if (SkipOperator("=")) {
      parameter.standard = ParseExpression();
    } else if (!macro->parameters.empty() && macro->parameters.back().standard) {
      Fail("non-default argument follows default argument");
    }
    macro->parameters.push_back(std::move(parameter));
  }
  Take();
}

void Parser::ParseMacroBody(Statement* macro, std::string_view end) {
  const int loops_outside = std::exchange(num_loops_, 0);
  const size_t begin = at_;
  macro->body = ParseBody({end});
  FindSpecialNames(tokens_, begin, at_, macro);
  num_loops_ = loops_outside;
  Take();
}

std::unique_ptr<Statement> Parser::ParseMacro() {
  auto statement = New(Statement::Kind::kMacro);
  Take();
  statement->name = TakeName();
  ParseSignature(statement.get());
  ParseMacroBody(statement.get(), "endmacro");
  return statement;
}

std::unique_ptr<Statement> Parser::ParseCall() {
  auto statement = New(Statement::Kind::kCall);
  Take();
  statement->name = "caller";
  if (IsOperator("(")) ParseSignature(statement.get());
  statement->expressions.push_back(ParseExpression());
  if (statement->expressions[0]->kind != Expression::Kind::kCall) Fail("expected call");
  ParseMacroBody(statement.get(), "endcall");
  return statement;
}

std::unique_ptr<Statement> Parser::ParseFilterBlock() {
  auto statement = New(Statement::Kind::kFilter);
  Take();
  ExpressionPtr filters = ParseFilter(nullptr);
  while (SkipOperator("|")) filters = ParseFilter(std::move(filters));
  statement->expressions.push_back(std::move(filters));
  statement->body = ParseBody({"endfilter"});
  Take();
  return statement;
}

std::unique_ptr<Statement> Parser::ParseWith() {
  auto statement = New(Statement::Kind::kWith);
  Take();
  while (Now().kind != Token::Kind::kBlockEnd) {
    if (!statement->targets.empty()) ExpectOperator(",");
    statement->targets.push_back(ParseTarget(/*ends_at_in=*/false));
    ExpectOperator("=");
    statement->expressions.push_back(ParseExpression());
  }
  statement->body = ParseBody({"endwith"});
  Take();
  return statement;
}

// What a model wrote, for training: transformers' own tag. It writes its body, in a scope of its own.
std::unique_ptr<Statement> Parser::ParseGeneration() {
  auto statement = New(Statement::Kind::kWith);
  Take();
  const int loops_outside = std::exchange(num_loops_, 0);
  statement->body = ParseBody({"endgeneration"});
  num_loops_ = loops_outside;
  Take();
  return statement;
}

// Where no template extends another, a block is its body.
std::unique_ptr<Statement> Parser::ParseBlock() {
  auto statement = New(Statement::Kind::kWith);
  Take();
  const std::string name = TakeName();
  SkipName("scoped");
  const int loops_outside = std::exchange(num_loops_, 0);
  statement->body = ParseBody({"endblock"});
  num_loops_ = loops_outside;
  Take();
  SkipName(name);
  return statement;
}

std::unique_ptr<Statement> Parser::ParsePrint() {
  auto statement = New(Statement::Kind::kOutput);
  Take();
  while (Now().kind != Token::Kind::kBlockEnd) {
    if (!statement->expressions.empty()) ExpectOperator(",");
    statement->expressions.push_back(ParseExpression());
  }
  return statement;
}

std::unique_ptr<Statement> Parser::ParseLoopControl() {
  if (num_loops_ == 0) Fail(fmt::format("'{}' outside of a loop", Now().text));
  auto statement = New(IsName("break") ? Statement::Kind::kBreak : Statement::Kind::kContinue);
  Take();
  return statement;
}

Body Parser::Run() { return ParseUntil({}); }

Body Parse(std::string_view source) { return Parser(Tokenize(source)).Run(); }

}  // namespace mneme::jinja
