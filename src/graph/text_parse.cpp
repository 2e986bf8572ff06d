#include "graph/op_def.h"
#include "graph/text.h"
#include "graph/text_lexer.h"
#include "graph/text_tensor.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr int64_t most_dims = 64;  // of a value; keeps hostile text from growing without bound

class Parser {
 public:
  Parser(std::string_view text, const std::string& where) : lexer_(text, where) {}

  Graph parse() {
    lexer_.expect("graph");
    if (lexer_.peek().kind == TokenKind::string) graph_.name = lexer_.take().text;
    if (lexer_.peek().kind == TokenKind::word) {
      const Token stage = lexer_.take();
      try {
        graph_.stage = parse_stage(stage.text);
      } catch (const UserError& e) {
        lexer_.fail(stage.offset, e.message());
      }
    }
    lexer_.expect("{");
    while (!lexer_.at("return")) parse_item();
    lexer_.expect("return");
    if (lexer_.peek().kind == TokenKind::value) {
      do graph_.add_output(parse_use());
      while (lexer_.accept(","));
    }
    lexer_.expect("}");
    if (lexer_.peek().kind != TokenKind::end) lexer_.expected("the end");
    return std::move(graph_);
  }

 private:
  // Mistakes that the graph finds, at a place in the text.
  template <class F>
  std::invoke_result_t<F> at(size_t offset, F f) {
    try {
      return f();
    } catch (const UserError& e) {
      throw UserError(e.kind(), lexer_.place(offset),
                      e.where().empty() ? e.message() : e.where() + ": " + e.message(), e.hint());
    }
  }

  // %0 and %"0" are two.
  static std::string key(const Token& token) {
    const bool number = !token.quoted && token.text[0] >= '0' && token.text[0] <= '9';
    return (number ? "#" : "=") + token.text;
  }

  Value* parse_use() {
    const Token token = lexer_.expect(TokenKind::value, "a value such as %x");
    const auto it = values_.find(key(token));
    if (it == values_.end())
      lexer_.fail(token.offset, fmt::format("%{} is not defined before", quote_if_needed(token)));
    return it->second;
  }

  static std::string quote_if_needed(const Token& token) {
    return token.quoted ? quote(token.text) : token.text;
  }

  Token parse_definition() {
    Token token = lexer_.expect(TokenKind::value, "a value such as %x");
    if (values_.contains(key(token)))
      lexer_.fail(token.offset, fmt::format("%{} is defined twice", quote_if_needed(token)));
    return token;
  }

  static std::string name_of(const Token& token) { return key(token)[0] == '#' ? "" : token.text; }

  void define(const Token& token, Value* value) {
    if (!values_.emplace(key(token), value).second)
      lexer_.fail(token.offset, fmt::format("%{} is defined twice", quote_if_needed(token)));
  }

  TensorType parse_checked_type() {
    const size_t offset = lexer_.peek().offset;
    TensorType type = parse_type(lexer_);
    if (type.shape.rank() > most_dims)
      lexer_.fail(offset, fmt::format("more than {} dimensions", most_dims));
    return type;
  }

  Tensor parse_tensor(const TensorType& type, size_t offset) {
    if (!type.shape.is_static()) lexer_.fail(offset, "a constant's dimensions must be numbers");
    return parse_elements(lexer_, type.dtype, type.shape.dims());
  }

  void parse_item() {
    if (lexer_.accept("input")) {
      const Token name = parse_definition();
      lexer_.expect(":");
      define(name, graph_.add_input(name_of(name), parse_checked_type()));
    } else if (lexer_.accept("const")) {
      const Token name = parse_definition();
      lexer_.expect(":");
      const size_t offset = lexer_.peek().offset;
      const TensorType type = parse_checked_type();
      lexer_.expect("=");
      define(name, graph_.add_constant(name_of(name), parse_tensor(type, offset)));
    } else if (lexer_.peek().kind == TokenKind::value) {
      parse_node();
    } else {
      lexer_.expected("input, const, a value, or return");
    }
  }

  void parse_node() {
    std::vector<Token> names;
    do names.push_back(parse_definition());
    while (lexer_.accept(","));
    lexer_.expect("=");
    const Token op = lexer_.expect(TokenKind::word, "an op");
    const OpDef* def = find_op(op.text);
    if (!def) lexer_.fail(op.offset, fmt::format("there is no op '{}'", op.text));
    std::vector<Value*> inputs;
    lexer_.expect("(");
    while (!lexer_.at(")")) {
      if (!inputs.empty()) lexer_.expect(",");
      inputs.push_back(lexer_.accept("_") ? nullptr : parse_use());
    }
    lexer_.expect(")");
    Attributes attributes = parse_attributes(*def);

    // Without a name, so that no output takes one that a later value has.
    Node* node = at(op.offset,
                    [&] { return graph_.add(op.text, std::move(inputs), std::move(attributes)); });
    if (names.size() != node->outputs().size())
      lexer_.fail(names[0].offset, fmt::format("{} has {} outputs, not {}", op.text,
                                               node->outputs().size(), names.size()));
    for (size_t i = 0; i < names.size(); ++i) {
      if (node->output(i)->shape().rank() > most_dims)
        lexer_.fail(op.offset, fmt::format("more than {} dimensions", most_dims));
      graph_.rename(node->output(i), name_of(names[i]));
      define(names[i], node->output(i));
    }
    if (lexer_.accept(":")) {
      for (size_t i = 0; i < names.size(); ++i) {
        if (i > 0) lexer_.expect(",");
        const size_t offset = lexer_.peek().offset;
        const std::string given = print_type(parse_type(lexer_)),
                          inferred = print_type(node->output(i)->type());
        if (given != inferred)
          lexer_.fail(offset, fmt::format("this is {}, not {}", inferred, given));
      }
    }
    node->set_name(lexer_.accept("@")
                       ? lexer_.expect(TokenKind::string, "the node's name in quotes").text
                       : name_of(names[0]));
  }

  Attributes parse_attributes(const OpDef& op) {
    Attributes attributes;
    if (!lexer_.accept("{")) return attributes;
    while (!lexer_.at("}")) {
      if (!attributes.empty()) lexer_.expect(",");
      const Token name = lexer_.expect(TokenKind::word, "an attribute");
      const AttributeSpec* spec = op.attribute(name.text);
      if (!spec)
        lexer_.fail(name.offset, fmt::format("{} has no attribute '{}'{}", op.name, name.text,
                                             attribute_list(op)));
      lexer_.expect("=");
      if (!attributes.emplace(name.text, parse_attribute(spec->kind)).second)
        lexer_.fail(name.offset, fmt::format("'{}' is given twice", name.text));
    }
    lexer_.expect("}");
    return attributes;
  }

  static std::string attribute_list(const OpDef& op) {
    std::string names;
    for (const AttributeSpec& spec : op.impl->attributes)
      names += (names.empty() ? "; it has " : ", ") + std::string(spec.name);
    return names;
  }

  // The op says which kind it is: [] and 1 may be integers or reals.
  Attribute parse_attribute(AttributeKind kind) {
    switch (kind) {
      case AttributeKind::integer:
        return parse_integer(lexer_);
      case AttributeKind::real:
        return parse_real(lexer_);
      case AttributeKind::text:
        return lexer_.expect(TokenKind::string, "a text in quotes").text;
      case AttributeKind::integers:
        return parse_list<Ints>(parse_integer);
      case AttributeKind::reals:
        return parse_list<Floats>(parse_real);
      case AttributeKind::tensor: {
        const size_t offset = lexer_.peek().offset;
        const TensorType type = parse_checked_type();
        return parse_tensor(type, offset);
      }
    }
    throw InternalError("unknown kind of attribute");
  }

  template <class List, class F>
  List parse_list(F parse_one) {
    List list;
    lexer_.expect("[");
    while (!lexer_.at("]")) {
      if (!list.empty()) lexer_.expect(",");
      list.push_back(parse_one(lexer_));
    }
    lexer_.expect("]");
    return list;
  }

  Lexer lexer_;
  Graph graph_;
  std::unordered_map<std::string, Value*> values_;
};

}  // namespace

Graph parse_graph(std::string_view text, const std::string& where) {
  return Parser(text, where).parse();
}

}  // namespace octavo
