#include "graph/text.h"

#include <gtest/gtest.h>

#include <random>

#include "graph/random_graph.h"
#include "graph/same_graph.h"
#include "graph/verify.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr const char* stem = R"(graph "net" canonical {
  input %x : f32[N, 3, "2*h", ?]
  const %w : f32[2, 3, 1, 1] = [1, -0.5, 1e-09, 0.1, inf, -0]
  const %big : f32[2, 12] = <96 bytes, 9d22ea76892d42df>
  %y = conv(%x, %w) {strides = [2, 2]} : f32[N, 2, ?, ?] @ "/stem/Conv"
  %"a b" = clip(%y) {max = 6.0, min = 0.0} : f32[N, 2, ?, ?]
  %0 = add(%"a b", %y) : f32[N, 2, ?, ?]
  return %0, %y
}
)";

TEST(Text, PrintsWhatItReads) {
  std::string text = stem;
  const size_t start = text.find('<'), end = text.find('>') + 1;
  text.replace(start, end - start, "random(1, -1, 1)");
  const Graph g = parse_graph(text);
  EXPECT_EQ(violations(g, Stage::canonical), std::vector<std::string>());
  EXPECT_EQ(print_graph(g), stem);
  EXPECT_EQ(g.find_value("y")->producer()->name(), "/stem/Conv");
  EXPECT_EQ(g.find_value("a b")->producer()->name(), "a b");
}

TEST(Text, ReadsShortFormsOfTensors) {
  const Graph g = parse_graph(R"(graph {
    const %z : i32[2, 3] = zeros
    const %i : u8[300] = iota   // wraps
    const %f : f16[4] = 0.5
    const %r : f32[1000] = random(7, -2, 3)
    const %n : i8[1000] = random(7, -2, 3)
    const %h : u16[2] = hex "0001ff00"   # little-endian
    const %b : bool[] = true
    const %e : f32[0, 4] = []
    return %z
  })");
  EXPECT_EQ(g.stage, Stage::captured);
  EXPECT_EQ(g.name, "graph");
  EXPECT_EQ(g.find_value("z")->constant().to_ints(), std::vector<int64_t>(6, 0));
  EXPECT_EQ(g.find_value("i")->constant().values<uint8_t>()[299], 299 - 256);
  EXPECT_EQ(g.find_value("f")->constant().to_doubles(), std::vector<double>(4, 0.5));
  EXPECT_EQ(g.find_value("h")->constant().to_ints(), (std::vector<int64_t>{256, 255}));
  EXPECT_EQ(g.find_value("e")->constant().size(), 0);
  std::map<int64_t, int> counts;
  for (const int64_t v : g.find_value("n")->constant().to_ints()) ++counts[v];
  EXPECT_EQ(counts.size(), 6u);  // -2 to 3, both included
  for (const double v : g.find_value("r")->constant().to_doubles()) EXPECT_TRUE(v >= -2 && v < 3);
}

TEST(Text, KeepsEveryBitOfNumbers) {
  const char* text = R"(graph {
    input %x : f32[1]
    const %f : f32[6] = [nan, nan(0xffc00001), -inf, -0, 1e-45, 3.4028235e38]
    const %d : f64[2] = [0.1, nan(0x7ff8000000000001)]
    const %h : f16[4] = [nan, nan(0x7e01), 65504, 6e-08]
    const %b : bf16[2] = [nan(0x7fc1), 1e38]
    const %i : i64[2] = [-9223372036854775808, 9223372036854775807]
    const %u : u64[1] = [18446744073709551615]
    %y = clip(%x) {min = -0.0, max = nan(0xfff8000000000002)}
    return %y
  })";
  const Graph g = parse_graph(text);
  const Graph again = parse_graph(print_graph(g));
  std::string difference;
  EXPECT_TRUE(same_graph(g, again, &difference)) << difference;
  const auto bits = [&](const char* name) {
    std::vector<uint32_t> out(g.find_value(name)->constant().bytes() / 4);
    std::memcpy(out.data(), g.find_value(name)->constant().data(), out.size() * 4);
    return out;
  };
  EXPECT_EQ(bits("f"),
            (std::vector<uint32_t>{0x7fc00000, 0xffc00001, 0xff800000, 0x80000000, 1, 0x7f7fffff}));
  EXPECT_EQ(bits("i"), (std::vector<uint32_t>{0, 0x80000000, 0xffffffff, 0x7fffffff}));
}

struct Mistake {
  const char* text;
  const char* message;
};

TEST(Text, ErrorsSayWhereAndWhatWasExpected) {
  const Mistake mistakes[] = {
      {"grph", "t:1:1: expected 'graph', found \"grph\""},
      {"graph \"a", "t:1:7: this string has no end"},
      {"graph final {", "t:1:7: unknown stage 'final'"},
      {"graph {", "t:1:8: expected input, const, a value, or return, found the end"},
      {"graph {\n  input %x f32[1]", "t:2:12: expected ':', found \"f32\""},
      {"graph { input %x : f33[1]", "t:1:20: unknown element type 'f33'"},
      {"graph { input %x : f32[-1]", "t:1:24: a dimension must not be negative"},
      {"graph { input %x : f32[9999999, 9999999]", "t:1:33: more than 2^40 elements"},
      {"graph { input %x : f32[1] input %x", "t:1:33: %x is defined twice"},
      {"graph { input %\"\"", "t:1:15: a quoted name must not be empty"},
      {"graph { input % x", "t:1:15: expected a name after %"},
      {"graph { input %\"a\\q\"", "t:1:18: unknown escape: use \\\", \\\\, \\n or \\xNN"},
      {"graph {\n %y = rellu(", "t:2:7: there is no op 'rellu'"},
      {"graph {\n %y = relu(%x", "t:2:12: %x is not defined before"},
      {"graph {\n %y = relu(%\"a b\"", "t:2:12: %\"a b\" is not defined before"},
      {"graph { input %x : f32[1]\n %y = relu(_)", "t:2:7: relu: takes 1 to 1 inputs, not 0"},
      {"graph { input %x : f32[1]\n %y = clip(%x) {low = 1}",
       "t:2:17: clip has no attribute 'low'; it has min, max"},
      {"graph { input %x : f32[1]\n %y = clip(%x) {min = \"a\"}",
       "t:2:23: expected a number, found \"\\\"a\\\"\""},
      {"graph { input %x : f32[1]\n %y = clip(%x) {min = 1, min = 1}",
       "t:2:26: 'min' is given twice"},
      {"graph { input %x : f32[1]\n %y, %z = relu(%x)", "t:2:2: relu has 1 outputs, not 2"},
      {"graph { input %x : f32[1]\n %y = relu(%x) : f32[2]", "t:2:18: this is f32[1], not f32[2]"},
      {"graph { const %w : f32[N] = 1", "t:1:20: a constant's dimensions must be numbers"},
      {"graph { const %w : f32[3] = [1, 2]", "t:1:29: 2 elements for [3]"},
      {"graph { const %w : u8[1] = [256]", "t:1:29: 256 is out of range"},
      {"graph { const %w : u8[1] = [1.5]",
       "t:1:29: expected an integer of this type, found \"1.5\""},
      {"graph { const %w : bool[1] = [2]", "t:1:31: expected true or false, found \"2\""},
      {"graph { const %w : f32[1] = nan(1)", "t:1:33: expected hexadecimal bits, found \"1\""},
      {"graph { const %w : f32[1] = nan(0x0)", "t:1:29: these bits are not a NaN's"},
      {"graph { const %w : u8[2] = hex \"01\"", "t:1:32: 2 digits for 2 bytes"},
      {"graph { const %w : u8[1] = hex \"0g\"", "t:1:33: expected hexadecimal digits"},
      {"graph { const %w : f32[999999, 999999] = zeros",
       "t:1:42: [999999, 999999] is too large to be made up"},
      {"graph { const %w : f32[9] = <36 bytes, 0>",
       "t:1:29: these elements were left out when the graph was printed; print it in full"},
      {"graph { return } x", "t:1:18: expected the end, found \"x\""},
  };
  for (const Mistake& mistake : mistakes) {
    try {
      parse_graph(mistake.text, "t");
      ADD_FAILURE() << mistake.text;
    } catch (const UserError& e) {
      EXPECT_STREQ(e.what(), mistake.message) << mistake.text;
    }
  }
}

TEST(Text, RandomGraphsComeBack) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const Graph g = testing::RandomGraph(seed).make();
    ASSERT_EQ(violations(g, g.stage), std::vector<std::string>());
    const std::string text = print_graph(g, {.full = true});
    const Graph again = parse_graph(text);
    std::string difference;
    ASSERT_TRUE(same_graph(g, again, &difference)) << difference << "\n" << text;
    ASSERT_EQ(print_graph(again, {.full = true}), text);
    const Graph copy = g.clone();
    if (copy.constants().size() == g.constants().size()) {  // a clone leaves out what nothing reads
      ASSERT_TRUE(same_graph(g, copy, &difference)) << difference;
    }
  }
}

TEST(Text, MutatedTextIsReadOrRefused) {
  const std::string pieces[] = {
      "%",      "\"",   "{",    "}",       "[",      "]",     "(",
      ")",      ",",    ":",    "=",       "@",      "_",     "<",
      "-1",     "0",    "inf",  "nan",     "99999",  "1e99",  "?",
      "return", "%x",   "\\",   "hex",     "\xff",   "zeros", "f32[",
      "u8",     "relu", "conv", "reshape", "concat", "graph", "9223372036854775807"};
  size_t read = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    std::mt19937_64 random(seed);
    const auto below = [&](size_t n) { return n == 0 ? 0 : random() % n; };
    std::string text = print_graph(testing::RandomGraph(seed % 40).make(), {.full = true});
    for (size_t i = 1 + below(3); i > 0; --i) {
      const size_t at = below(text.size());
      switch (below(4)) {
        case 0:
          text.erase(at, 1 + below(8));
          break;
        case 1:
          text.insert(at, pieces[below(std::size(pieces))]);
          break;
        case 2:
          text[at] = static_cast<char>(below(256));
          break;
        default:
          text.insert(below(text.size()), text.substr(at, below(40)));
          break;
      }
    }
    Graph g;
    try {
      g = parse_graph(text);
    } catch (const UserError&) {
      continue;
    }
    ++read;
    ASSERT_TRUE(same_graph(g, parse_graph(print_graph(g, {.full = true}))));
  }
  EXPECT_GT(read, 50u);  // mutations that change names and numbers only
}

}  // namespace
}  // namespace octavo
