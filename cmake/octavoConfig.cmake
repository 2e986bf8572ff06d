# find_package(octavo) gives octavo::octavo: include/octavo and the shared library.
include("${CMAKE_CURRENT_LIST_DIR}/octavoTargets.cmake")
