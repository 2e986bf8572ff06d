// What a code object of CPython 3.11 says: instructions, jumps, exception table.
#pragma once
#include <cstdint>
#include <vector>

#include "object.h"

namespace octavo::capture {

// The opcodes, numbered as in CPython 3.11's opcode.h; names and numbers stand in opcodes.def.
enum class Op : uint8_t {
#define OCTAVO_OPCODE(name, number, caches, handling) name = number,
#include "cpython_311/opcodes.def"
#undef OCTAVO_OPCODE
};

const char* opcode_name(Op op);

struct Instruction {
  Op op;
  int arg;     // with its EXTENDED_ARGs
  int offset;  // code unit of the first EXTENDED_ARG, where a jump to this instruction lands
  int unit;    // code unit of the opcode itself, which the exception table counts in
  int next;    // code unit after the inline caches
  int target;  // code unit a jump goes to, or -1
};

struct Handler {
  int start, end;  // code units [start, end)
  int target;
  int depth;
  bool push_offset;
};

// A code object, decoded once. Lives as long as the code object.
class Code {
 public:
  explicit Code(PyCodeObject* code);

  PyCodeObject* object() const { return code_; }
  const Instruction& at(int unit) const {
    return instructions_[static_cast<size_t>(index_[static_cast<size_t>(unit)])];
  }
  int units() const { return static_cast<int>(index_.size()); }
  const std::vector<Instruction>& instructions() const { return instructions_; }
  // The handler that covers a code unit, or null.
  const Handler* handler(int unit) const;
  int line(int unit) const;

  PyObject* constant(int index) const { return PyTuple_GET_ITEM(code_->co_consts, index); }
  PyObject* name(int index) const { return PyTuple_GET_ITEM(code_->co_names, index); }
  PyObject* slot_name(int index) const {
    return PyTuple_GET_ITEM(code_->co_localsplusnames, index);
  }
  std::string location(int unit) const;  // "file:line"
  // Local variables that may be read at or after a code unit before they are written.
  const std::vector<bool>& live(int unit) const;

 private:
  void decode();
  void decode_handlers();
  void find_live();

  PyCodeObject* code_;
  std::vector<Instruction> instructions_;
  std::vector<int> index_;  // code unit to instruction
  std::vector<Handler> handlers_;
  std::vector<std::vector<bool>> live_;  // per instruction
};

}  // namespace octavo::capture
