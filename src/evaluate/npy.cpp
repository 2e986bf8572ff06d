#include "evaluate/npy.h"

#include <unistd.h>
#include <zip.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "support/error.h"
#include "support/file.h"

namespace octavo {
namespace {

struct Code {
  const char* text;
  DType dtype;
};
constexpr Code codes[] = {{"<f4", DType::f32}, {"<f8", DType::f64}, {"<f2", DType::f16},
                          {"|i1", DType::i8},  {"|u1", DType::u8},  {"<i2", DType::i16},
                          {"<u2", DType::u16}, {"<i4", DType::i32}, {"<u4", DType::u32},
                          {"<i8", DType::i64}, {"<u8", DType::u64}, {"|b1", DType::boolean}};

[[noreturn]] void fail(const std::string& where, const std::string& message,
                       const std::string& hint = "") {
  throw UserError(ErrorKind::file, where, message, hint);
}

// The text after "'key':" in the header's Python dictionary, up to the value's end.
std::string_view field(std::string_view header, std::string_view key, const std::string& where) {
  const std::string quoted = fmt::format("'{}':", key);
  const size_t at = header.find(quoted);
  if (at == std::string_view::npos) fail(where, fmt::format("the .npy header has no {}", quoted));
  std::string_view rest = header.substr(at + quoted.size());
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  const size_t end = rest.empty()          ? 0
                     : rest.front() == '(' ? rest.find(')')
                                           : rest.find_first_of(",}");
  if (end == std::string_view::npos || end == 0) fail(where, "the .npy header is damaged");
  return rest.substr(0, end);
}

Dims parse_dims(std::string_view text, const std::string& where) {
  Dims dims;
  if (text.empty() || text.front() != '(') fail(where, "the .npy header's shape is damaged");
  text.remove_prefix(1);
  while (!text.empty()) {
    if (text.front() == ' ' || text.front() == ',') {
      text.remove_prefix(1);
      continue;
    }
    int64_t value = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || value < 0 || dims.size() >= 32)
      fail(where, "the .npy header's shape is damaged");
    dims.push_back(value);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
  }
  return dims;
}

std::string npy_header(const Tensor& tensor) {
  std::string code;
  for (const Code& c : codes)
    if (c.dtype == tensor.dtype()) code = c.text;
  if (code.empty())
    throw UserError(ErrorKind::unsupported, "npy",
                    fmt::format("NumPy has no type for {}", dtype_name(tensor.dtype())));
  std::string dims;
  for (int64_t dim : tensor.dims()) dims += std::to_string(dim) + ",";
  std::string text =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", code, dims);
  text.append(63 - (10 + text.size()) % 64, ' ');
  text += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(text.size() & 255);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

zip_uint64_t most_unpacked_bytes() {
  const auto pages = static_cast<zip_uint64_t>(std::max(0L, sysconf(_SC_PHYS_PAGES)));
  return pages * static_cast<zip_uint64_t>(sysconf(_SC_PAGESIZE)) / 2;
}

struct ZipClose {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct EntryClose {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};

}  // namespace

namespace {

// Where the elements begin.
struct Layout {
  DType dtype;
  Dims dims;
  size_t start;
};

Layout read_header(std::span<const std::byte> bytes, const std::string& where) {
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  if (bytes.size() < 12 || std::memcmp(text, "\x93NUMPY", 6) != 0)
    fail(where, "is not a .npy file");
  const int major = static_cast<uint8_t>(text[6]);
  if (major < 1 || major > 3) fail(where, fmt::format(".npy format {} is not known", major));
  size_t start = 10, length = static_cast<uint8_t>(text[8]) |
                              static_cast<size_t>(static_cast<uint8_t>(text[9])) << 8;
  if (major > 1) {
    start = 12;
    length |= static_cast<size_t>(static_cast<uint8_t>(text[10])) << 16 |
              static_cast<size_t>(static_cast<uint8_t>(text[11])) << 24;
  }
  if (length > bytes.size() - start) fail(where, "the file is cut off in its header");
  const std::string_view header(text + start, length);
  std::string_view descr = field(header, "descr", where);
  if (descr.size() < 3) fail(where, "the .npy header is damaged");
  descr = descr.substr(1, descr.size() - 2);
  if (field(header, "fortran_order", where) != "False")
    fail(where, "holds a Fortran-ordered array", "save numpy.ascontiguousarray(x)");
  const Code* found = nullptr;
  for (const Code& code : codes)
    if (descr == code.text) found = &code;
  if (!found && descr.front() == '>')
    fail(where, fmt::format("holds big-endian data ('{}')", descr),
         "save x.astype(x.dtype.newbyteorder('<'))");
  if (!found)
    fail(where, fmt::format("element type '{}' is not supported", descr.substr(0, 40)),
         "use float16/32/64, bool or an integer type");
  Dims dims = parse_dims(field(header, "shape", where), where);
  int64_t count = 0;
  try {
    count = element_count(dims);
  } catch (const UserError& e) {
    fail(where, e.message());
  }
  if (static_cast<uint64_t>(count) > bytes.size() && dtype_size(found->dtype) > 0)
    fail(where, fmt::format("the file is cut off: {} {} does not fit in {} bytes", found->text,
                            dims_str(dims), bytes.size()));
  const size_t size = static_cast<size_t>(count) * dtype_size(found->dtype);
  if (bytes.size() - start - length < size)
    fail(where, fmt::format("the file is cut off: {} {} needs {} bytes, {} are there", found->text,
                            dims_str(dims), size, bytes.size() - start - length));
  return {found->dtype, std::move(dims), start + length};
}

}  // namespace

Tensor parse_npy(std::span<const std::byte> bytes, const std::string& where) {
  Layout layout = read_header(bytes, where);
  Tensor tensor(layout.dtype, std::move(layout.dims));
  if (tensor.bytes() > 0)
    std::memcpy(tensor.mutable_data(), bytes.data() + layout.start, tensor.bytes());
  return tensor;
}

Tensor load_npy(const std::string& path) {
  const auto file = MappedFile::open(path);
  const std::span<const std::byte> bytes(file->data(), file->size());
  Layout layout = read_header(bytes, path);
  if (layout.start % dtype_size(layout.dtype) != 0) return parse_npy(bytes, path);
  auto view = Buffer::view(file->data() + layout.start, file->size() - layout.start, file);
  return {layout.dtype, std::move(layout.dims), std::move(view)};
}

std::map<std::string, Tensor> load_npz(const std::string& path) {
  MappedFile::open(path);  // for the clearer message if there is no such file
  int code = 0;
  const std::unique_ptr<zip_t, ZipClose> archive(zip_open(path.c_str(), ZIP_RDONLY, &code));
  if (!archive) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string text = zip_error_strerror(&error);
    zip_error_fini(&error);
    fail(path, "is not a readable .npz archive: " + text);
  }
  // The whole directory first: nothing is unpacked of what will be refused.
  std::vector<zip_stat_t> infos(static_cast<size_t>(zip_get_num_entries(archive.get(), 0)));
  zip_uint64_t total = 0;
  for (size_t i = 0; i < infos.size(); ++i) {
    zip_stat_t& info = infos[i];
    zip_stat_init(&info);
    if (zip_stat_index(archive.get(), i, 0, &info) != 0 || !(info.valid & ZIP_STAT_SIZE) ||
        !(info.valid & ZIP_STAT_COMP_SIZE))
      fail(path, "has a damaged directory");
    const std::string where = path + ":" + info.name;
    // Deflate shrinks by 1032 at most.
    if (info.size / 1032 > info.comp_size + 1)
      fail(where,
           fmt::format("is damaged: {} bytes cannot unpack to {}", info.comp_size, info.size));
    total += info.size;
    if (total > most_unpacked_bytes())
      fail(where,
           fmt::format("brings the unpacked size to {:.1f} GB, over half of the memory",
                       static_cast<double>(total) / 1e9),
           "split it into a folder of files");
  }
  std::map<std::string, Tensor> tensors;
  for (size_t i = 0; i < infos.size(); ++i) {
    const zip_stat_t& info = infos[i];
    std::string name = info.name;
    const std::string where = path + ":" + name;
    const std::unique_ptr<zip_file_t, EntryClose> entry(zip_fopen_index(archive.get(), i, 0));
    std::vector<std::byte> bytes(info.size);
    std::byte beyond{};
    if (!entry ||
        zip_fread(entry.get(), bytes.data(), info.size) != static_cast<zip_int64_t>(info.size) ||
        zip_fread(entry.get(), &beyond, 1) != 0)  // the end is where the checksum is compared
      fail(where, "cannot be unpacked");
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    tensors[name] = parse_npy(bytes, where);
  }
  return tensors;
}

void save_npy(const Tensor& tensor, const std::string& path) {
  const std::string header = npy_header(tensor);
  write_file_atomically(path, [&](std::ostream& out) {
    out << header;
    out.write(reinterpret_cast<const char*>(tensor.data()),
              static_cast<std::streamsize>(tensor.bytes()));
  });
}

void save_npz(const std::map<std::string, Tensor>& tensors, const std::string& path) {
  const auto check = [&](bool good, zip_error_t* error) {
    if (!good) fail(path, fmt::format("cannot be written: {}", zip_error_strerror(error)));
  };
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* memory = zip_source_buffer_create(nullptr, 0, 0, &error);
  check(memory != nullptr, &error);
  const std::unique_ptr<zip_source_t, decltype(&zip_source_free)> whole(memory, zip_source_free);
  zip_source_keep(memory);  // the archive frees one reference, `whole` the other
  std::unique_ptr<zip_t, ZipClose> archive(
      zip_open_from_source(memory, ZIP_CREATE | ZIP_TRUNCATE, &error));
  if (!archive) zip_source_free(memory);
  check(archive != nullptr, &error);
  std::vector<std::string> headers;  // must outlive the archive
  std::vector<zip_buffer_fragment_t> pieces(tensors.size() * 2);
  headers.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    zip_buffer_fragment_t* piece = pieces.data() + headers.size() * 2;
    std::string& header = headers.emplace_back(npy_header(tensor));
    piece[0] = {reinterpret_cast<zip_uint8_t*>(header.data()), header.size()};
    // libzip only reads it.
    piece[1] = {const_cast<zip_uint8_t*>(reinterpret_cast<const zip_uint8_t*>(tensor.data())),
                tensor.bytes()};
    zip_source_t* source = zip_source_buffer_fragment(archive.get(), piece, 2, 0);
    const zip_int64_t index =
        source ? zip_file_add(archive.get(), (name + ".npy").c_str(), source, ZIP_FL_ENC_UTF_8)
               : -1;
    if (index < 0) zip_source_free(source);
    check(index >= 0, zip_get_error(archive.get()));
    zip_set_file_compression(archive.get(), static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
  }
  check(zip_close(archive.get()) == 0, zip_get_error(archive.get()));
  (void)archive.release();  // zip_close freed it
  zip_stat_t info;
  zip_stat_init(&info);
  check(zip_source_stat(memory, &info) == 0 && zip_source_open(memory) == 0,
        zip_source_error(memory));
  write_file_atomically(path, [&](std::ostream& out) {
    std::vector<char> block(1 << 20);
    for (zip_int64_t n = 1; n > 0;) {
      n = zip_source_read(memory, block.data(), block.size());
      check(n >= 0, zip_source_error(memory));
      out.write(block.data(), n);
    }
  });
  zip_source_close(memory);
}

Tensor stack_rows(const std::vector<Tensor>& parts) {
  OCTAVO_CHECK(!parts.empty());
  if (parts[0].rank() == 0) return parts[0];
  Dims dims = parts[0].dims();
  dims[0] = 0;
  for (const Tensor& part : parts) {
    bool fits = part.dtype() == parts[0].dtype() && part.rank() == parts[0].rank();
    for (size_t d = 1; fits && d < dims.size(); ++d) fits = part.dims()[d] == dims[d];
    if (!fits)
      throw UserError(ErrorKind::value, "output",
                      fmt::format("samples of {} and {} do not stack", parts[0].type().str(),
                                  part.type().str()));
    dims[0] += part.dims()[0];
  }
  Tensor all(parts[0].dtype(), dims);
  std::byte* to = all.mutable_data();
  for (const Tensor& part : parts) {
    std::memcpy(to, part.data(), part.bytes());
    to += part.bytes();
  }
  return all;
}

}  // namespace octavo
