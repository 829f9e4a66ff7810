#!/usr/bin/env bash
# Collects in a folder the wheels that `make bench-accelerator` needs on a machine without a network,
# where Python 3.12 with JAX 0.11, NumPy, SciPy and matplotlib is installed: about 45 MB, with
# jaxoff itself as it stands here and without MuJoCo, which the benchmark does not use. Usage: wheels.sh FOLDER [name==version ...]
set -euo pipefail
folder=${1:?usage: wheels.sh FOLDER [name==version ...]}; shift
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$folder"
rm -f "$folder"/jaxoff-*.whl
"$python" -m pip wheel -q --no-deps --no-build-isolation -w "$folder" "$root"
platforms=()
for n in 1 2014 _2_17 _2_24 _2_27 _2_28 _2_31 _2_34 _2_35; do
  platforms+=(--platform "manylinux${n}_x86_64")
done
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp "${platforms[@]}" -d "$folder" \
  absl-py==2.5.1 attrs==26.1.0 chex==0.1.92 click==8.5.1 \
  cloudpickle==3.1.2 decorator==5.3.1 distrax==0.1.9 dm-tree==0.1.10 docstring-parser==0.18.0 \
  etils==1.15.0 farama-notifications==0.0.6 flashbax==0.1.3 flax==0.12.12 formulaic==1.2.2 \
  fsspec==2026.9.0 gast==0.7.0 gymnasium==1.3.0 gymnax==1.0.1 humanize==4.17.0 \
  interface-meta==2.0.1 jaxmarl==0.2.0 jaxopt==0.8.5 jaxtyping==0.3.11 markdown-it-py==4.3.0 \
  mdurl==0.1.2 ml-collections==1.1.0 msgpack==1.2.4 \
  narwhals==2.28.0 optax==0.2.8 orbax-checkpoint==0.12.8 pygments==2.21.0 \
  pyyaml==6.0.3 rich==15.0.0 safetensors==0.8.0 simplejson==4.3.0 tensorstore==0.1.86 \
  tfp-nightly==0.26.0.dev20261027 toolz==1.2.0 treescope==0.1.10 typeguard==4.6.0 \
  typing-extensions==4.16.0 tyro==1.0.17 wadler-lindig==0.1.8 wrapt==2.5.2 zipp==4.1.2 \
  protobuf==7.36.2 six==1.17.0 \
  "$@"
du -sh "$folder"
