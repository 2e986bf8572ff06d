#include "graph/octavo_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "graph/octavo_header.h"
#include "graph/random_graph.h"
#include "graph/same_graph.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "support/error.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

// A folder of its own for each test.
class OctavoFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    const std::string name = fmt::format("octavo_file_{}_{}", test->name(), getpid());
    // In memory where that is offered: thousands of small files.
    std::error_code refused;
    folder_ = fs::path("/dev/shm") / name;
    if (!fs::create_directory(folder_, refused)) {
      folder_ = fs::temp_directory_path() / name;
      fs::create_directory(folder_);
    }
    path_ = (folder_ / "model.octavo").string();
  }
  void TearDown() override {
    fs::remove(path_);
    fs::remove_all(folder_);
  }

  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  std::string bytes() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void write(const std::string& content) const {
    std::ofstream(path_, std::ios::binary) << content;
  }

  // The message of the UserError (file) that loading throws.
  std::string refusal() const {
    try {
      load_octavo(path_);
    } catch (const UserError& e) {
      EXPECT_EQ(e.kind(), ErrorKind::file);
      EXPECT_EQ(e.where(), path_);
      return e.message();
    }
    return "loaded";
  }

  fs::path folder_;
  std::string path_;
};

OctavoHeader header_of(const std::string& content) {
  OctavoHeader header;
  std::memcpy(&header, content.data(), sizeof header);
  return header;
}

// With a checksum that fits again, so that what is behind it meets the damage.
std::string resealed(std::string content) {
  OctavoHeader header = header_of(content);
  header.checksum = checksum(
      header, std::as_bytes(std::span(content.data() + sizeof header, header.metadata_size)));
  std::memcpy(content.data(), &header, sizeof header);
  return content;
}

Graph sample() {
  return parse_graph(R"(graph "sample" quantized {
    input %x : f32["batch size", 3, 8, ?]
    input %n : i64[]
    const %w : f32[4, 3, 3, 3] = random(1, -1, 1)
    const %mask : bool[3] = [true, false, true]
    const %s : f32[4] = 0.25
    %q = quantize(%w, %s) {axis = 0, output = "i8"}
    %d = dequantize(%q, %s) {axis = 0}
    %c = conv(%x, %d, _) {pads = [1, 1, 1, 1]} @ "/conv"
    %0 = clip(%c) {max = inf, min = -0.0}
    return %0, %mask, %n
  })");
}

TEST_F(OctavoFileTest, SampleComesBack) {
  const Graph g = sample();
  save_octavo(g, path_);
  EXPECT_EQ(files(), 1u);
  EXPECT_TRUE(is_octavo_file(path_));
  const Graph again = load_octavo(path_);
  std::string difference;
  EXPECT_TRUE(same_graph(g, again, &difference)) << difference;
}

TEST_F(OctavoFileTest, RandomGraphsComeBack) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const Graph g = testing::RandomGraph(seed).make();
    save_octavo(g, path_);
    const Graph again = load_octavo(path_);
    std::string difference;
    ASSERT_TRUE(same_graph(g, again, &difference)) << difference;
    ASSERT_EQ(print_graph(g, {.full = true}), print_graph(again, {.full = true}));
  }
}

TEST_F(OctavoFileTest, SameGraphGivesSameBytes) {
  save_octavo(sample(), path_);
  const std::string first = bytes();
  save_octavo(load_octavo(path_), path_);  // over the file that its own constants are mapped from
  EXPECT_EQ(bytes(), first);
}

TEST_F(OctavoFileTest, ConstantsAreAlignedViewsOfTheMapping) {
  constexpr int64_t megabytes = 128;
  path_ = (fs::temp_directory_path() / fmt::format("octavo_large_{}", getpid()))
              .string();  // too much for memory
  {
    Graph g;
    const Tensor weights = Tensor(DType::u8, {megabytes << 20});
    std::memset(const_cast<std::byte*>(weights.data()), 1, weights.bytes());
    g.add_output(g.add_constant("w", weights));
    g.add_output(g.add_constant("tied", weights));
    g.add_output(g.add_constant("b", Tensor::scalar(1.0f)));
    save_octavo(g, path_);
  }
  EXPECT_LT(fs::file_size(path_), (megabytes << 20) + 4096u);  // tied weights are stored once
  const auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    size_t pages = 0;
    statm >> pages >> pages;
    return pages * 4096;
  };
  const size_t before = resident();
  const Graph g = load_octavo(path_);
  EXPECT_LT(resident() - before, size_t{16} << 20);
  const std::byte* w = g.find_value("w")->constant().data();
  EXPECT_EQ(g.find_value("tied")->constant().data(), w);
  // The one mapping in /proc/self/maps that is this file's covers both.
  uintptr_t start = 0, end = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.ends_with(path_)) {
      ASSERT_EQ(std::sscanf(line.c_str(), "%lx-%lx", &start, &end), 2);
    }
  for (const char* name : {"w", "b"}) {
    const Tensor& t = g.find_value(name)->constant();
    const auto address = reinterpret_cast<uintptr_t>(t.data());
    EXPECT_EQ(address % 64, 0u);
    EXPECT_TRUE(address >= start && address + t.bytes() <= end) << name;
  }
}

TEST_F(OctavoFileTest, MappingLivesAsLongAsItsTensors) {
  save_octavo(sample(), path_);
  Tensor w;
  {
    const Graph g = load_octavo(path_);
    w = g.find_value("w")->constant();
  }
  fs::remove(path_);
  EXPECT_EQ(w, sample().find_value("w")->constant());
  EXPECT_THROW(w.mutable_data(), InternalError);  // shared with the file
}

TEST_F(OctavoFileTest, CarriesPackedSections) {
  const auto packed = Buffer::allocate(100);
  std::memset(packed->mutable_data(), 7, 100);
  const std::vector<PackedSection> sections{{"conv_int8/avx512_vnni", 3, packed},
                                            {"empty", 1, Buffer::allocate(0)}};
  save_octavo(sample(), path_, sections);
  const OctavoFile file = load_octavo_file(path_);
  ASSERT_EQ(file.sections.size(), 2u);
  EXPECT_EQ(file.sections[0].key, "conv_int8/avx512_vnni");
  EXPECT_EQ(file.sections[0].version, 3u);
  ASSERT_EQ(file.sections[0].bytes->size(), 100u);
  EXPECT_EQ(std::memcmp(file.sections[0].bytes->data(), packed->data(), 100), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.sections[0].bytes->data()) % 64, 0u);
  EXPECT_EQ(file.sections[1].bytes->size(), 0u);
}

// ---- bad files

TEST_F(OctavoFileTest, ForeignFiles) {
  EXPECT_EQ(refusal(), "cannot open: No such file or directory");
  write("");
  EXPECT_EQ(refusal(), "not an .octavo file");
  write(std::string(1000, 'x'));
  EXPECT_EQ(refusal(), "not an .octavo file");
  EXPECT_FALSE(is_octavo_file(path_));
  write("OCTAVO\r\n");
  EXPECT_EQ(refusal(), "damaged .octavo file: it ends within its header");
}

TEST_F(OctavoFileTest, NewerVersion) {
  save_octavo(sample(), path_);
  std::string content = bytes();
  content[8] = 2;
  write(content);
  EXPECT_EQ(refusal(), "its format is version 2, this Octavo reads up to 1");
}

TEST_F(OctavoFileTest, UnknownOp) {
  save_octavo(sample(), path_);
  std::string content = bytes();
  content.replace(content.find("clip"), 4, "clop");
  write(content);
  EXPECT_EQ(refusal(), "damaged .octavo file: its checksum does not match");
  write(resealed(content));
  EXPECT_EQ(refusal(), "node '' is a 'clop', which this Octavo does not know");
}

TEST_F(OctavoFileTest, TruncatedAnywhere) {
  save_octavo(sample(), path_);
  const std::string whole = bytes();
  for (size_t size = 0; size < whole.size(); size += size < 200 ? 1 : 37) {
    write(whole.substr(0, size));
    EXPECT_NE(refusal(), "loaded") << size;
  }
  write(whole + "x");
  EXPECT_NE(refusal().find("its parts do not add up"), std::string::npos);
}

// A flip either is found, or hit what has no checksum: elements, the zeros between.
TEST_F(OctavoFileTest, FlippedBytesAreFound) {
  const Graph g = sample();
  save_octavo(g, path_);
  const std::string whole = bytes();
  const size_t data = header_of(whole).data_offset;
  for (size_t at = 0; at < data; ++at) {
    std::string content = whole;
    content[at] = static_cast<char>(content[at] ^ (1 << at % 8));
    write(content);
    const std::string message = refusal();
    if (message == "loaded") {
      EXPECT_GE(at, sizeof(OctavoHeader) + header_of(whole).metadata_size);
      EXPECT_TRUE(same_graph(g, load_octavo(path_)));
    }
  }
}

// The same with checksums made right: what no accident does, but a forger would.
TEST_F(OctavoFileTest, ForgedFilesAreRefusedOrSound) {
  size_t loaded = 0, refused = 0;
  std::string whole;
  for (uint64_t seed = 0; seed < 10000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    if (seed % 50 == 0) {
      save_octavo(seed % 200 == 0 ? sample() : testing::RandomGraph(seed).make(), path_);
      whole = bytes();
    }
    std::mt19937_64 random(seed);
    std::string content = whole;
    const OctavoHeader header = header_of(whole);
    for (size_t flips = 1 + random() % 6; flips > 0; --flips) {
      const bool anywhere = random() % 4 == 0;
      const size_t at =
          anywhere ? random() % content.size() : sizeof header + random() % header.metadata_size;
      switch (random() % 4) {
        case 0:
          content[at] = static_cast<char>(random());
          break;
        case 1:
          content[at] = static_cast<char>(content[at] ^ (1 << random() % 8));
          break;
        case 2:
          content[at] = random() % 2 ? '\xff' : '\0';
          break;
        default: {  // a small step of a word: offsets and counts that nearly fit
          uint32_t word;
          const size_t aligned = std::min(at / 4 * 4, content.size() - 4);
          std::memcpy(&word, content.data() + aligned, 4);
          word += static_cast<uint32_t>(random() % 33) - 16;
          std::memcpy(content.data() + aligned, &word, 4);
        }
      }
    }
    if (header_of(content).metadata_size <= content.size() - sizeof header)
      content = resealed(content);
    write(content);
    try {
      const Graph g = load_octavo(path_);
      ++loaded;
      ASSERT_EQ(violations(g, g.stage), std::vector<std::string>());
      print_graph(g, {.full = true});  // reads every byte
    } catch (const UserError& e) {
      ++refused;
      ASSERT_EQ(e.kind(), ErrorKind::file) << e.what();
    }
  }
  EXPECT_GT(loaded, 100u);
  EXPECT_GT(refused, 1000u);
}

// ---- bad places

TEST_F(OctavoFileTest, UnwritablePlaceLeavesNothing) {
  EXPECT_THROW(save_octavo(sample(), (folder_ / "no/such/folder/m.octavo").string()), UserError);
  const std::string taken = (folder_ / "taken").string();
  fs::create_directories(fs::path(taken) / "inside");
  try {
    save_octavo(sample(), taken);  // a folder that is not empty
    FAIL();
  } catch (const UserError& e) {
    EXPECT_EQ(e.kind(), ErrorKind::file);
    EXPECT_EQ(e.where(), taken);
  }
  EXPECT_EQ(files(), 1u);
}

TEST_F(OctavoFileTest, UnsoundGraphKeepsTheOldFile) {
  save_octavo(sample(), path_);
  const std::string before = bytes();
  Graph g = sample();
  g.first()->output()->set_type({DType::f32, {1}});
  EXPECT_THROW(save_octavo(g, path_), InternalError);
  EXPECT_EQ(bytes(), before);
  EXPECT_EQ(files(), 1u);
}

TEST_F(OctavoFileTest, FullDiskIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP();
  fs::create_symlink("/dev/full", fmt::format("{}.{}.tmp", path_, getpid()));
  EXPECT_THROW(save_octavo(sample(), path_), UserError);
  EXPECT_FALSE(fs::exists(path_));
}

}  // namespace
}  // namespace octavo
