# Flags that every Octavo target shares.
add_library(octavo_options INTERFACE)
# -ffp-contract=off: one rounding per float operation is part of the arithmetic
# (shared by every ISA), so the compiler must not fuse multiply and add by itself.
target_compile_options(octavo_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  -Werror -ffp-contract=off -fno-math-errno)
if(OCTAVO_SANITIZE)
  target_compile_options(octavo_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(octavo_options INTERFACE -fsanitize=address,undefined)
endif()
find_program(OCTAVO_CCACHE ccache)
if(OCTAVO_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${OCTAVO_CCACHE})
endif()
