#!/usr/bin/env bash
# Runs the benchmark of `make bench-accelerator` from the wheels of a folder (`make wheels`), on a
# machine without a network and without make. Usage: accelerator.sh FOLDER [option ...]
set -euo pipefail
folder=${1:?usage: accelerator.sh FOLDER [option ...]}; shift
python=${PYTHON:-python3}
site=$(mktemp -d)
"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" \
  "$folder"/*.whl
export PYTHONPATH="$site" PYTHONUNBUFFERED=1
exec "$python" -m jaxoff.experiments.bench.accelerator "$@"
