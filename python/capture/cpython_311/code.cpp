#include "cpython_311/code.h"

#include <algorithm>

namespace octavo::capture {
namespace {

struct OpcodeRow {
  const char* name = nullptr;
  int caches = 0;
};

const OpcodeRow* opcode_rows() {
  static const auto* rows = [] {
    auto* table = new OpcodeRow[256];
#define OCTAVO_OPCODE(name, number, caches, handling) table[number] = {#name, caches};
#include "cpython_311/opcodes.def"
#undef OCTAVO_OPCODE
    return table;
  }();
  return rows;
}

bool jumps_backward(Op op) {
  switch (op) {
    case Op::JUMP_BACKWARD:
    case Op::JUMP_BACKWARD_NO_INTERRUPT:
    case Op::POP_JUMP_BACKWARD_IF_FALSE:
    case Op::POP_JUMP_BACKWARD_IF_NONE:
    case Op::POP_JUMP_BACKWARD_IF_NOT_NONE:
    case Op::POP_JUMP_BACKWARD_IF_TRUE:
      return true;
    default:
      return false;
  }
}

bool jumps_forward(Op op) {
  switch (op) {
    case Op::FOR_ITER:
    case Op::JUMP_FORWARD:
    case Op::JUMP_IF_FALSE_OR_POP:
    case Op::JUMP_IF_TRUE_OR_POP:
    case Op::POP_JUMP_FORWARD_IF_FALSE:
    case Op::POP_JUMP_FORWARD_IF_NONE:
    case Op::POP_JUMP_FORWARD_IF_NOT_NONE:
    case Op::POP_JUMP_FORWARD_IF_TRUE:
    case Op::SEND:
      return true;
    default:
      return false;
  }
}

bool ends_block(Op op) {
  switch (op) {
    case Op::RETURN_VALUE:
    case Op::RAISE_VARARGS:
    case Op::RERAISE:
    case Op::JUMP_FORWARD:
    case Op::JUMP_BACKWARD:
    case Op::JUMP_BACKWARD_NO_INTERRUPT:
      return true;
    default:
      return false;
  }
}

// Numbers of the exception table: six bits a byte, most significant first, bit 6 set on all but the
// last byte (Objects/exception_handling_notes.txt of CPython 3.11).
int read_number(const unsigned char*& at) {
  int value = *at & 63;
  while (*at & 64) value = value << 6 | (*++at & 63);
  ++at;
  return value;
}

}  // namespace

const char* opcode_name(Op op) {
  const char* name = opcode_rows()[static_cast<uint8_t>(op)].name;
  return name ? name : "unknown opcode";
}

Code::Code(PyCodeObject* code) : code_(code) {
  decode();
  decode_handlers();
  find_live();
}

void Code::decode() {
  // co_code, not the adaptive copy that the interpreter specialises.
  const Ref bytes = Ref::checked(PyCode_GetCode(code_));
  const auto* units = reinterpret_cast<const unsigned char*>(PyBytes_AS_STRING(bytes.get()));
  const int count = static_cast<int>(PyBytes_GET_SIZE(bytes.get()) / 2);
  index_.assign(static_cast<size_t>(count) + 1, 0);
  for (int at = 0; at < count;) {
    const int offset = at;
    int arg = 0;
    while (units[2 * at] == static_cast<int>(Op::EXTENDED_ARG)) {
      arg = (arg | units[2 * at + 1]) << 8;
      ++at;
    }
    const Op op{units[2 * at]};
    arg |= units[2 * at + 1];
    const int next = at + 1 + opcode_rows()[units[2 * at]].caches;
    int target = -1;
    if (jumps_forward(op)) target = next + arg;
    if (jumps_backward(op)) target = next - arg;
    for (int unit = offset; unit < next; ++unit)
      index_[static_cast<size_t>(unit)] = static_cast<int>(instructions_.size());
    instructions_.push_back({op, arg, offset, at, next, target});
    at = next;
  }
  index_[static_cast<size_t>(count)] = static_cast<int>(instructions_.size()) - 1;
}

void Code::decode_handlers() {
  const auto* at =
      reinterpret_cast<const unsigned char*>(PyBytes_AS_STRING(code_->co_exceptiontable));
  const auto* end = at + PyBytes_GET_SIZE(code_->co_exceptiontable);
  while (at < end) {
    const int start = read_number(at);
    const int size = read_number(at);
    const int target = read_number(at);
    const int depth = read_number(at);
    handlers_.push_back({start, start + size, target, depth >> 1, (depth & 1) != 0});
  }
}

const Handler* Code::handler(int unit) const {
  for (const Handler& handler : handlers_)
    if (handler.start <= unit && unit < handler.end) return &handler;
  return nullptr;
}

int Code::line(int unit) const { return PyCode_Addr2Line(code_, unit * 2); }

std::string Code::location(int unit) const {
  return utf8(code_->co_filename) + ":" + std::to_string(line(unit));
}

const std::vector<bool>& Code::live(int unit) const {
  return live_[static_cast<size_t>(index_[static_cast<size_t>(unit)])];
}

// Backward data flow to a fixed point; a handler's variables are live wherever it covers.
void Code::find_live() {
  const size_t count = instructions_.size();
  const auto slots = static_cast<size_t>(code_->co_nlocalsplus);
  live_.assign(count, std::vector<bool>(slots, false));
  bool changed = true;
  while (changed) {
    changed = false;
    for (size_t n = count; n-- > 0;) {
      const Instruction& i = instructions_[n];
      std::vector<bool> live(slots, false);
      const auto join = [&](int unit) {
        const auto& other = live_[static_cast<size_t>(index_[static_cast<size_t>(unit)])];
        for (size_t slot = 0; slot < slots; ++slot)
          if (other[slot]) live[slot] = true;
      };
      if (!ends_block(i.op) && n + 1 < count) join(i.next);
      if (i.target >= 0) join(i.target);
      const auto slot = static_cast<size_t>(i.arg);
      switch (i.op) {
        case Op::STORE_FAST:
          live[slot] = false;
          break;
        case Op::LOAD_FAST:
        case Op::DELETE_FAST:
        case Op::LOAD_CLOSURE:
        case Op::LOAD_DEREF:
        case Op::STORE_DEREF:
        case Op::DELETE_DEREF:
        case Op::LOAD_CLASSDEREF:
        case Op::MAKE_CELL:
          live[slot] = true;
          break;
        default:
          break;
      }
      if (const Handler* covering = handler(i.unit)) join(covering->target);
      if (live != live_[n]) {
        live_[n] = std::move(live);
        changed = true;
      }
    }
  }
}

}  // namespace octavo::capture
