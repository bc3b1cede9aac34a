// The expressions of the grammar, from the loosest binding to the tightest.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "chat/jinja/syntax/parser.h"

namespace mneme::jinja {
namespace {

using Kind = Expression::Kind;

std::vector<ExpressionPtr> Parts(ExpressionPtr a, ExpressionPtr b = nullptr) {
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(a));
  if (b) parts.push_back(std::move(b));
  return parts;
}

}  // namespace

ExpressionPtr Parser::Make(Kind kind, int line, std::vector<ExpressionPtr> parts, std::string name) const {
  auto node = std::make_unique<Expression>(Expression{.kind = kind, .line = line, .name = std::move(name)});
  for (const ExpressionPtr& part : parts)
    if (part) node->depth = std::max(node->depth, part->depth + 1);
  if (node->depth > kMaxSyntaxDepth) Fail("this expression is nested too deeply");
  node->parts = std::move(parts);
  return node;
}

// One expression, or several with commas between, which are a tuple.
ExpressionPtr Parser::ParseTuple(bool with_condition, std::string_view end_name, bool in_brackets) {
  const int line = Now().line;
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  const auto at_end = [&] {
    return Now().kind == Token::Kind::kOutputEnd || Now().kind == Token::Kind::kBlockEnd || IsOperator(")") ||
           (!end_name.empty() && IsName(end_name));
  };
  while (!at_end()) {
    parts.push_back(ParseExpression(with_condition));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (parts.empty() && !in_brackets) FailUnexpected("an expression");
  return Make(Kind::kTuple, line, std::move(parts));
}

ExpressionPtr Parser::ParseExpression(bool with_condition) {
  const Nest nest(this);
  return with_condition ? ParseConditional() : ParseOr();
}

ExpressionPtr Parser::ParseConditional() {
  const int line = Now().line;
  ExpressionPtr node = ParseOr();
  while (SkipName("if")) {
    std::vector<ExpressionPtr> parts = Parts(ParseOr(), std::move(node));
    parts.push_back(SkipName("else") ? ParseExpression() : nullptr);
    node = Make(Kind::kConditional, line, std::move(parts));
  }
  return node;
}

ExpressionPtr Parser::ParseOr() {
  const int line = Now().line;
  ExpressionPtr node = ParseAnd();
  while (SkipName("or")) node = Make(Kind::kOr, line, Parts(std::move(node), ParseAnd()));
  return node;
}

ExpressionPtr Parser::ParseAnd() {
  const int line = Now().line;
  ExpressionPtr node = ParseNot();
  while (SkipName("and")) node = Make(Kind::kAnd, line, Parts(std::move(node), ParseNot()));
  return node;
}

ExpressionPtr Parser::ParseNot() {
  const int line = Now().line;
  if (!SkipName("not")) return ParseCompare();
  const Nest nest(this);
  return Make(Kind::kNot, line, Parts(ParseNot()));
}

ExpressionPtr Parser::ParseCompare() {
  constexpr std::string_view kOperators[] = {"==", "!=", "<", "<=", ">", ">="};
  const int line = Now().line;
  std::vector<ExpressionPtr> parts = Parts(ParseSum());
  std::vector<std::string> operators;
  while (true) {
    if (Now().kind == Token::Kind::kOperator &&
        std::find(std::begin(kOperators), std::end(kOperators), Now().text) != std::end(kOperators)) {
      operators.push_back(Take().text);
    } else if (SkipName("in")) {
      operators.push_back("in");
    } else if (IsName("not") && After().kind == Token::Kind::kName && After().text == "in") {
      Take();
      Take();
      operators.push_back("not in");
    } else {
      break;
    }
    parts.push_back(ParseSum());
  }
  if (operators.empty()) return std::move(parts[0]);
  ExpressionPtr node = Make(Kind::kCompare, line, std::move(parts));
  node->operators = std::move(operators);
  return node;
}

ExpressionPtr Parser::ParseSum() {
  const int line = Now().line;
  ExpressionPtr node = ParseConcat();
  while (IsOperator("+") || IsOperator("-")) {
    std::string name = Take().text;
    node = Make(Kind::kBinary, line, Parts(std::move(node), ParseConcat()), std::move(name));
  }
  return node;
}

ExpressionPtr Parser::ParseConcat() {
  const int line = Now().line;
  std::vector<ExpressionPtr> parts = Parts(ParseProduct());
  while (SkipOperator("~")) parts.push_back(ParseProduct());
  return parts.size() == 1 ? std::move(parts[0]) : Make(Kind::kConcat, line, std::move(parts));
}

ExpressionPtr Parser::ParseProduct() {
  const int line = Now().line;
  ExpressionPtr node = ParsePower();
  while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%")) {
    std::string name = Take().text;
    node = Make(Kind::kBinary, line, Parts(std::move(node), ParsePower()), std::move(name));
  }
  return node;
}

ExpressionPtr Parser::ParsePower() {
  const int line = Now().line;
  ExpressionPtr node = ParseUnary();
  while (SkipOperator("**")) node = Make(Kind::kBinary, line, Parts(std::move(node), ParseUnary()), "**");
  return node;
}

ExpressionPtr Parser::ParseUnary(bool with_filter) {
  const int line = Now().line;
  ExpressionPtr node;
  if (IsOperator("-") || IsOperator("+")) {
    const Nest nest(this);
    std::string name = Take().text;
    node = Make(Kind::kUnary, line, Parts(ParseUnary(/*with_filter=*/false)), std::move(name));
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(std::move(node));
  return with_filter ? ParseFilters(std::move(node)) : std::move(node);
}

ExpressionPtr Parser::ParsePrimary() {
  const int line = Now().line;
  switch (Now().kind) {
    case Token::Kind::kName:
      return ParseNamed();
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return ParseNumber();
    case Token::Kind::kString: {
      std::string text;
      while (Now().kind == Token::Kind::kString) text += Take().text;
      ExpressionPtr node = Make(Kind::kConstant, line);
      node->value = Value(std::make_shared<const String>(Text(text, TextKind::kFormat), nullptr));
      return node;
    }
    default:
      break;
  }
  if (SkipOperator("(")) {
    ExpressionPtr node = ParseTuple(/*with_condition=*/true, {}, /*in_brackets=*/true);
    ExpectOperator(")");
    return node;
  }
  if (IsOperator("[")) return ParseList();
  if (IsOperator("{")) return ParseDict();
  FailUnexpected("an expression");
}

ExpressionPtr Parser::ParseNamed() {
  const int line = Now().line;
  std::string name = Take().text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    ExpressionPtr node = Make(Kind::kConstant, line);
    node->value = Value(name == "true" || name == "True");
    return node;
  }
  if (name == "none" || name == "None") return Make(Kind::kConstant, line);
  return Make(Kind::kName, line, {}, std::move(name));
}

ExpressionPtr Parser::ParseNumber() {
  ExpressionPtr node = Make(Kind::kConstant, Now().line);
  const std::string& text = Now().text;
  const char* end = text.data() + text.size();
  if (Now().kind == Token::Kind::kFloat) {
    double number = 0;
    std::from_chars(text.data(), end, number);
    node->value = Value(number);
  } else {
    const bool has_base = text.size() > 1 && text[0] == '0' && (text[1] | 0x20) >= 'a';
    const int base = !has_base ? 10 : (text[1] | 0x20) == 'x' ? 16 : (text[1] | 0x20) == 'o' ? 8 : 2;
    uint64_t number = 0;
    const auto result = std::from_chars(text.data() + (has_base ? 2 : 0), end, number, base);
    if (result.ec != std::errc()) Fail(fmt::format("the number {} is too large", text));
    node->value = Value(static_cast<Int>(number));
  }
  Take();
  return node;
}

ExpressionPtr Parser::ParseList() {
  const int line = Take().line;
  std::vector<ExpressionPtr> parts;
  while (!IsOperator("]")) {
    parts.push_back(ParseExpression());
    if (!SkipOperator(",")) break;
  }
  ExpectOperator("]");
  return Make(Kind::kList, line, std::move(parts));
}

ExpressionPtr Parser::ParseDict() {
  const int line = Take().line;
  std::vector<ExpressionPtr> parts;
  while (!IsOperator("}")) {
    parts.push_back(ParseExpression());
    ExpectOperator(":");
    parts.push_back(ParseExpression());
    if (!SkipOperator(",")) break;
  }
  ExpectOperator("}");
  return Make(Kind::kDict, line, std::move(parts));
}

ExpressionPtr Parser::ParsePostfix(ExpressionPtr node) {
  while (true) {
    if (IsOperator(".") || IsOperator("[")) {
      node = ParseSubscript(std::move(node));
    } else if (IsOperator("(")) {
      node = Make(Kind::kCall, Now().line, Parts(std::move(node)));
      ParseArguments(node.get());
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::ParseFilters(ExpressionPtr node) {
  while (true) {
    if (SkipOperator("|")) {
      node = ParseFilter(std::move(node));
    } else if (IsName("is")) {
      node = ParseTest(std::move(node));
    } else if (IsOperator("(")) {
      node = Make(Kind::kCall, Now().line, Parts(std::move(node)));
      ParseArguments(node.get());
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::ParseSubscript(ExpressionPtr node) {
  const int line = Now().line;
  if (SkipOperator("[")) {
    node = ParseSubscribed(std::move(node));
    ExpectOperator("]");
    return node;
  }
  Take();  // .
  if (Now().kind == Token::Kind::kName)
    return Make(Kind::kAttribute, line, Parts(std::move(node)), Take().text);
  if (Now().kind != Token::Kind::kInteger) FailUnexpected("a name or a number");
  return Make(Kind::kItem, line, Parts(std::move(node), ParseNumber()));
}

// What stands between [ and ]: an item, a slice, or a tuple of items.
ExpressionPtr Parser::ParseSubscribed(ExpressionPtr node) {
  const int line = Now().line;
  ExpressionPtr first;
  if (!IsOperator(":")) first = ParseExpression();
  if (IsOperator(",")) {
    std::vector<ExpressionPtr> parts = Parts(std::move(first));
    while (SkipOperator(",")) parts.push_back(ParseExpression());
    return Make(Kind::kItem, line, Parts(std::move(node), Make(Kind::kTuple, line, std::move(parts))));
  }
  if (!SkipOperator(":")) return Make(Kind::kItem, line, Parts(std::move(node), std::move(first)));
  std::vector<ExpressionPtr> parts = Parts(std::move(node));
  parts.push_back(std::move(first));
  parts.push_back(IsOperator(":") || IsOperator("]") ? nullptr : ParseExpression());
  parts.push_back(SkipOperator(":") && !IsOperator("]") ? ParseExpression() : nullptr);
  return Make(Kind::kSlice, line, std::move(parts));
}

void Parser::ParseArguments(Expression* node) {
  ExpectOperator("(");
  Expression::Call& call = node->call;
  const auto ensure = [&](bool is_good) {
    if (!is_good) Fail("invalid syntax for function call expression");
  };
  while (!IsOperator(")")) {
    ExpressionPtr* part = nullptr;
    if (SkipOperator("*")) {
      ensure(!call.list && !call.dict);
      part = &call.list;
    } else if (SkipOperator("**")) {
      ensure(!call.dict);
      part = &call.dict;
    } else if (Now().kind == Token::Kind::kName && After().kind == Token::Kind::kOperator &&
               After().text == "=") {
      ensure(!call.dict);
      part = &call.named.emplace_back(TakeName(), nullptr).second;
      Take();
    } else {
      ensure(!call.list && !call.dict && call.named.empty());
      part = &call.positional.emplace_back();
    }
    *part = ParseExpression();
    node->depth = std::max(node->depth, (*part)->depth + 1);
    if (!SkipOperator(",")) break;
  }
  if (node->depth > kMaxSyntaxDepth) Fail("this expression is nested too deeply");
  ExpectOperator(")");
}

std::string Parser::ParseDottedName() {
  std::string name = TakeName();
  while (SkipOperator(".")) name += "." + TakeName();
  return name;
}

ExpressionPtr Parser::ParseFilter(ExpressionPtr node) {
  const int line = Now().line;
  ExpressionPtr filter = Make(Kind::kFilter, line, Parts(std::move(node)), ParseDottedName());
  if (IsOperator("(")) ParseArguments(filter.get());
  return filter;
}

ExpressionPtr Parser::ParseTest(ExpressionPtr node) {
  const int line = Take().line;
  const bool is_negated = SkipName("not");
  ExpressionPtr test = Make(Kind::kTest, line, Parts(std::move(node)), ParseDottedName());
  const Token& next = Now();
  const bool is_value = next.kind == Token::Kind::kName || next.kind == Token::Kind::kString ||
                        next.kind == Token::Kind::kInteger || next.kind == Token::Kind::kFloat ||
                        IsOperator("[") || IsOperator("{");
  if (IsOperator("(")) {
    ParseArguments(test.get());
  } else if (is_value && !IsName("else") && !IsName("or") && !IsName("and")) {
    if (IsName("is")) Fail("You cannot chain multiple tests with is");
    test->call.positional.push_back(ParsePostfix(ParsePrimary()));
    test->depth = std::max(test->depth, test->call.positional[0]->depth + 1);
  }
  return is_negated ? Make(Kind::kNot, line, Parts(std::move(test))) : std::move(test);
}

}  // namespace mneme::jinja
