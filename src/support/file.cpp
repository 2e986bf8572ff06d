#include "support/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "support/error.h"

namespace octavo {
namespace {
[[noreturn]] void fail(const std::string& path, const char* action, int code) {
  throw UserError(
      ErrorKind::file, path, fmt::format("cannot {}: {}", action, std::strerror(code)),
      code == ENOSPC || code == EIO ? "check the disk" : "check the path and who may use it");
}

// Where writing to `path` ends: symbolic links followed, also to what is not there yet.
std::string follow_links(const std::string& path) {
  namespace fs = std::filesystem;
  fs::path target = path;
  std::error_code error;
  for (int depth = 0; fs::is_symlink(target, error); ++depth) {
    if (depth == 40) fail(path, "write", ELOOP);
    const fs::path next = fs::read_symlink(target, error);
    if (error) fail(path, "write", error.value());
    target = next.is_absolute() ? next : target.parent_path() / next;
  }
  return target.string();
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

void check_writable(const std::string& path) {
  struct stat info {};
  if (path.empty()) fail("''", "write", ENOENT);
  if (::stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) fail(path, "write", EISDIR);
    if (!S_ISREG(info.st_mode)) {
      if (::access(path.c_str(), W_OK) != 0) fail(path, "write", errno);
      return;
    }
  }
  std::filesystem::path folder = std::filesystem::path(follow_links(path)).parent_path();
  if (folder.empty()) folder = ".";
  if (::stat(folder.c_str(), &info) != 0)
    throw UserError(
        ErrorKind::file, path,
        fmt::format("cannot write: the folder {}: {}", folder.string(), std::strerror(errno)),
        "create it first");
  if (!S_ISDIR(info.st_mode)) fail(path, "write", ENOTDIR);
  if (::access(folder.c_str(), W_OK) != 0) fail(path, "write", errno);
}

void write_file_atomically(const std::string& path,
                           const std::function<void(std::ostream&)>& write) {
  check_writable(path);
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    std::ofstream device(path, std::ios::binary);
    if (device) write(device);
    device.close();
    if (!device) fail(path, "write", errno);
    return;
  }
  const std::string target = follow_links(path);
  const std::string temporary = fmt::format("{}.{}.tmp", target, getpid());
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  if (!out) fail(path, "write", errno);
  try {
    write(out);
    out.close();
  } catch (...) {
    std::remove(temporary.c_str());
    throw;
  }
  if (!out || std::rename(temporary.c_str(), target.c_str()) != 0) {
    const int code = errno;
    std::remove(temporary.c_str());
    fail(path, "write", code);
  }
}

void save_text(const std::string& text, const std::string& path) {
  write_file_atomically(path, [&](std::ostream& out) { out << text << '\n'; });
}

}  // namespace octavo
