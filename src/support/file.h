// Files: read-only mappings, and writes that are seen whole or not at all.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

namespace octavo {

// A read-only memory mapping. Throws UserError (file) if it cannot be opened, is a folder, …
class MappedFile {
 public:
  static std::shared_ptr<MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Throws the UserError (file) that writing `path` would end in as far as can be known before: it is
// a folder, its folder is missing or not writable. Asked before long work.
void check_writable(const std::string& path);

// Calls `write` on a temporary file beside `path`, then renames it over `path`; on any failure
// the temporary is removed, `path` is as before, and UserError (file) says why. What a symbolic
// link points to is replaced, not the link; devices and pipes are written to, not replaced.
void write_file_atomically(const std::string& path,
                           const std::function<void(std::ostream&)>& write);
// `text` and a line's end.
void save_text(const std::string& text, const std::string& path);

}  // namespace octavo
