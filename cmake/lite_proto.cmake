# Copies IN to OUT with the lite runtime switched on.
file(READ "${IN}" text)
string(REGEX REPLACE "option optimize_for *= *[A-Z_]+;" "" text "${text}")
string(REGEX REPLACE "(package onnx;)" "\\1\noption optimize_for = LITE_RUNTIME;" text "${text}")
file(WRITE "${OUT}" "${text}")
