# Flags that every Octavo target shares.
add_library(octavo_options INTERFACE)
# -ffp-contract=off: one rounding per float operation is part of the arithmetic
# (shared by every ISA), so the compiler must not fuse multiply and add by itself.
target_compile_options(octavo_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  -Werror -ffp-contract=off -fno-math-errno
  # GCC 12 reports these about inlined std::string and std::vector code that is right.
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread>)
if(OCTAVO_SANITIZE)
  target_compile_options(octavo_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(octavo_options INTERFACE -fsanitize=address,undefined)
endif()

# ccache stores nothing made with a precompiled header unless it may ignore the header's defines and
# time macros, and g++ must leave the header's name in the preprocessed text. BASEDIR lets two
# clones share what they compile.
find_program(OCTAVO_CCACHE ccache)
if(OCTAVO_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${OCTAVO_CCACHE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(octavo_options INTERFACE -fpch-preprocess)
  endif()
endif()
