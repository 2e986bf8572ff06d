#include "support/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "support/error.h"

namespace octavo {
namespace {
[[noreturn]] void fail(const std::string& path, const char* action, int code) {
  throw UserError(ErrorKind::file, path, fmt::format("cannot {}: {}", action, std::strerror(code)));
}
}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  // Without blocking: a named pipe would wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail(path, "open", errno);
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    const int code = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    ::close(fd);
    fail(path, "open", code);
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->size_ = static_cast<size_t>(info.st_size);
  if (file->size_ > 0) {
    void* data = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int code = errno;
    ::close(fd);
    if (data == MAP_FAILED) fail(path, "map", code);
    file->data_ = static_cast<const std::byte*>(data);
  } else {
    ::close(fd);
  }
  return file;
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

void write_file_atomically(const std::string& path,
                           const std::function<void(std::ostream&)>& write) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  if (!out) fail(path, "write", errno);
  try {
    write(out);
    out.close();
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int code = errno;
    std::remove(temporary.c_str());
    fail(path, "write", code);
  }
}

}  // namespace octavo
