#include "library_code.h"

#include <string>
#include <vector>

#include "python_types.h"

namespace octavo::capture {

bool is_library(PyCodeObject* code) {
  static const auto* folders = [] {
    auto* list = new std::vector<std::string>;
    const auto folder = [](const char* module) {
      std::string file = utf8(attribute(import(module).get(), "__file__").get());
      return file.substr(0, file.rfind('/') + 1);
    };
    list->push_back(folder("torch"));
    list->push_back(folder("octavo"));
    list->push_back(folder("numpy"));
    list->push_back(folder("typing_extensions") + "typing_extensions");
    return list;
  }();
  static const std::string standard = [] {
    const std::string file = utf8(attribute(import("os").get(), "__file__").get());
    return file.substr(0, file.rfind('/') + 1);
  }();
  const std::string file = utf8(code->co_filename);
  if (file.empty() || file.rfind("<frozen", 0) == 0) return true;
  for (const std::string& folder : *folders)
    if (file.rfind(folder, 0) == 0) {
      const std::string_view rest = std::string_view(file).substr(folder.size());
      return !(rest.rfind("nn/", 0) == 0 || rest.rfind("optim/", 0) == 0);
    }
  return file.rfind(standard, 0) == 0 && file.find("site-packages") == std::string::npos &&
         file.find("dist-packages") == std::string::npos;
}

}  // namespace octavo::capture
