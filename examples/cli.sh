#!/usr/bin/env bash
# The command's quick start: looks at a model, quantizes it, compiles it, runs it with a profile,
# times it. Usage: cli.sh [MODEL DATA]; without them a small model and noise are made.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
cd "$folder"

if [ $# -eq 2 ]; then
  model=$1 data=$2
else
  model=model.onnx data=data.npz
  PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} python - <<'PYTHON'
from pathlib import Path

import numpy as np
from quantize_and_run import make_model

make_model(Path("model.onnx"))
np.savez("data.npz", x=np.random.default_rng(1).normal(size=(32, 3, 16, 16)).astype(np.float32))
PYTHON
fi

octavo inspect "$model"
octavo quantize "$model" -o int8.onnx --data "$data" --target octavo --calibrator entropy --record run.json
octavo compile int8.onnx -o int8.octavo
octavo run int8.octavo --data "$data" --output y.npz --profile
octavo bench int8.octavo --seconds 0.2
octavo doctor
echo "files: $folder"
ls -l "$folder"
