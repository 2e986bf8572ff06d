// Bytes that several programs, or plans of one program for several sizes, hold once: packed
// weights. Nothing is kept alive here, and nothing that is shared may be written any more.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "support/buffer.h"

namespace octavo {

// A buffer with the bytes of `made` that somebody holds already; else `made` itself.
std::shared_ptr<Buffer> held_once(std::shared_ptr<Buffer> made);

// What `make` makes of `source`'s bytes, which never change: the buffer that was made of the same
// source with the same `how`, if somebody still holds it. `how` names all that decides the bytes.
std::shared_ptr<Buffer> made_once(const std::shared_ptr<const Buffer>& source,
                                  const std::string& how,
                                  const std::function<std::shared_ptr<Buffer>()>& make);

}  // namespace octavo
