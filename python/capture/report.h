// What is said of captured pieces: to explain(), and to whoever listens (octavo.capture.logs).
#pragma once
#include <string>
#include <vector>

#include "engine.h"

namespace octavo::capture {

// A callable that gets the dict of each piece that is captured, or null.
void set_listener(Ref listener);

// Whether anyone wants to know.
bool is_reported(const Region& region);

// How a piece came to be.
struct Origin {
  int unit;  // where it begins
  double trace_ms, backend_ms;
  const Ref& module;                        // its graph, or null
  const std::vector<std::string>& misfits;  // of the versions that were there already
};

// Gives the piece's dict to the region's list and to the listener.
void report(const Region& region, const Code& code, const Trace& trace, const Piece& piece,
            const Origin& origin);

// The first guard, or state of torch, that keeps the piece from fitting a call.
std::string misfit(const Piece& piece, const GlobalState& now, const FrameView& view,
                   const Code& code);

}  // namespace octavo::capture
