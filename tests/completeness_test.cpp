// Walks the explicit lists and names what lacks a reference kernel, a quantization trait, a
// documentation or a test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "graph/op_def.h"
#include "passes/pipeline.h"
#include "quantize/calibrators/calibrators.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string read(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// All tests but this one.
std::string all_tests() {
  std::string text;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(OCTAVO_SOURCE_DIR) / "tests")) {
    const std::string extension = entry.path().extension().string();
    if (entry.path().filename() == fs::path(__FILE__).filename()) continue;
    if (extension == ".cpp" || extension == ".h" || extension == ".py")
      text += read(entry.path()) + "\n";
  }
  return text;
}

// A test calls an op by its name in quotes, or in the text form of a graph.
bool names(const std::string& tests, std::string_view name) {
  return tests.find(fmt::format("\"{}\"", name)) != std::string::npos ||
         tests.find(fmt::format("= {}(", name)) != std::string::npos;
}

bool has_word(const std::string& text, const std::string& word) {
  return std::regex_search(text, std::regex("\\b" + word + "\\b"));
}

std::vector<std::string> op_gaps(std::span<const OpDef> ops, const std::string& tests) {
  std::vector<std::string> gaps;
  for (const OpDef& op : ops) {
    const auto gap = [&](const char* what) {
      gaps.push_back(fmt::format("{}: {}", op.name, what));
    };
    if (!op.impl->reference) gap("no reference kernel");
    if (!op.impl->infer) gap("no shape function");
    if (op.impl->doc.size() < 6) gap("no documentation");
    // Only what is about quantization itself may leave open how INT8 treats it.
    const bool decided = op.kind == OpKind::quantization || op.kind == OpKind::fused;
    if (op.quant == QuantTrait::none && !decided) gap("no quantization trait");
    if (!names(tests, op.name)) gap("no test");
  }
  return gaps;
}

TEST(Completeness, Ops) { EXPECT_THAT(op_gaps(all_ops(), all_tests()), IsEmpty()); }

// The walk itself: an op with nothing is named for everything that it lacks.
TEST(Completeness, FindsGaps) {
  const OpImpl nothing{};
  const OpDef ops[] = {{"bare", OpKind::pointwise, Stage::canonical, QuantTrait::none, &nothing}};
  EXPECT_THAT(
      op_gaps(ops, "TEST(Bare) { \"barely\" }"),
      ElementsAre("bare: no reference kernel", "bare: no shape function", "bare: no documentation",
                  "bare: no quantization trait", "bare: no test"));
  EXPECT_THAT(op_gaps(ops, "%y = bare(%x)"), ::testing::SizeIs(4));
}

TEST(Completeness, OpsThatComeFromOnnxGoBack) {
  // In ONNX they have a newer opset than is written.
  const std::set<std::string_view> later{"cumprod", "bit_cast", "rms_norm"};
  std::vector<std::string_view> gaps;
  for (const OpDef& op : all_ops())
    if (!op.impl->onnx_import.empty() && !op.impl->onnx_export && !later.contains(op.name))
      gaps.push_back(op.name);
  EXPECT_THAT(gaps, IsEmpty());
}

TEST(Completeness, Passes) {
  const std::string tests = all_tests(),
                    header = read(fs::path(OCTAVO_SOURCE_DIR) / "src/passes/passes.h");
  std::vector<std::string> gaps;
  for (const auto passes : {canonical_passes(), lowering_passes()})
    for (const Pass& pass : passes) {
      // A comment right above the declaration, or above one in the same group.
      if (!std::regex_search(header,
                             std::regex("//[^\\n]*\\n(void \\w+\\(Graph& graph\\);\\n)*void " +
                                        std::string(pass.name) + "\\(")))
        gaps.push_back(std::string(pass.name) + ": no documentation");
      if (!has_word(tests, pass.name)) gaps.push_back(std::string(pass.name) + ": no test");
    }
  EXPECT_THAT(gaps, IsEmpty());
}

TEST(Completeness, CalibratorsAndTargets) {
  const std::string tests = all_tests();
  std::vector<std::string> gaps;
  const auto check = [&](const char* name, const char* summary) {
    if (std::string_view(summary).size() < 8) gaps.push_back(std::string(name) + ": no summary");
    if (!names(tests, name)) gaps.push_back(std::string(name) + ": no test");
  };
  for (const Calibrator& calibrator : calibrators())
    if (!has_word(tests, "choose_" + std::string(calibrator.name)))
      check(calibrator.name, calibrator.summary);
  for (const PlacementTarget& target : placement_targets()) check(target.name, target.summary);
  EXPECT_THAT(gaps, IsEmpty());
}

// The command is no part of the library: its list is read from the source.
TEST(Completeness, Subcommands) {
  const fs::path cli = fs::path(OCTAVO_SOURCE_DIR) / "src/cli";
  const std::string tests = all_tests(), list = read(cli / "main.cpp");
  std::vector<std::string> gaps;
  size_t found = 0;
  const std::regex call("  add_(\\w+)\\(app, context\\);");
  for (std::sregex_iterator it(list.begin(), list.end(), call), end; it != end; ++it, ++found) {
    const std::string name = (*it)[1], source = read(cli / (name + ".cpp"));
    if (!std::regex_search(source,
                           std::regex("add_subcommand\\(\\s*\"" + name + "\",\\s*\"[^\"]{8}")))
      gaps.push_back(name + ": no description");
    if (!names(tests, name)) gaps.push_back(name + ": no test");
  }
  EXPECT_GE(found, 6u);
  EXPECT_THAT(gaps, IsEmpty());
}

}  // namespace
}  // namespace octavo
