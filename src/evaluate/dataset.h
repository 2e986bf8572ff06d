// Data for calibration and evaluation: a number of samples, each one tuple of inputs.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/program.h"
#include "support/error.h"

namespace octavo {

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual size_t size() const = 0;  // samples
  // Inputs in the program's order. UserError (file) naming the sample if it cannot be read or does
  // not fit.
  virtual std::vector<Tensor> sample(size_t i) const = 0;
};

// `path` is one of
//  * an .npz with one array per input (named as the input; any name if there is one input), or an
//    .npy for a single input: the first axis counts the samples;
//  * a folder of .npz or .npy files, each one sample;
//  * a folder of PNG and JPEG pictures, for a single f32 input: `preprocessing` describes how a
//    picture becomes the input; empty: preprocessing.json in the folder or beside it.
// Samples come in the order of file names. UserError if there is nothing, or nothing that fits.
std::unique_ptr<Dataset> open_dataset(const std::string& path, const Program::Signature& signature,
                                      const std::string& preprocessing = "");

// Tuples held in memory. UserError (value) that begins with `where` if there are none or one does
// not fit.
std::unique_ptr<Dataset> memory_dataset(std::vector<std::vector<Tensor>> samples,
                                        const Program::Signature& signature,
                                        const std::string& where = "data");

// The arrays in the order of `names`. UserError naming one that is missing or is too many.
std::vector<Tensor> order_by_name(const std::map<std::string, Tensor>& arrays,
                                  const std::vector<std::string>& names, ErrorKind kind,
                                  const std::string& where);

}  // namespace octavo
