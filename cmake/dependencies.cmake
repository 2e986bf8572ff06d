# Libraries from Debian, and two files that PyPI wheels carry (onnx.proto, nanobind).
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Protobuf REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBZIP REQUIRED IMPORTED_TARGET libzip)
find_program(FLATC flatc REQUIRED)
if(SKBUILD)  # pip install: the interpreter that pip builds with has the wheels
  set(OCTAVO_PYTHON_EXECUTABLE "${Python_EXECUTABLE}")
else()
  set(OCTAVO_PYTHON_EXECUTABLE "${OCTAVO_VENV}/bin/python")
endif()
if(NOT EXISTS "${OCTAVO_PYTHON_EXECUTABLE}")
  message(FATAL_ERROR "no virtual environment at ${OCTAVO_VENV}: run 'make setup' first")
endif()
execute_process(
  COMMAND "${OCTAVO_PYTHON_EXECUTABLE}" -c
    "import importlib.util as u, os; print(os.path.dirname(u.find_spec('onnx').origin))"
  OUTPUT_VARIABLE OCTAVO_ONNX_DIR OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
