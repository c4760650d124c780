#!/usr/bin/env bash
# Makes the pinned lists from pyproject.toml. Run it to move to newer versions; the lists hold no URLs.
#   gpu.txt            NVIDIA hosts: torch's CUDA build, onnxruntime-gpu with its CUDA libraries; with every file's hash
#   gpu-cu12.txt       hosts whose driver is older than 580: the last torch and onnxruntime-gpu built for CUDA 12
#   build.txt          pip, uv and the build backend, for a wheelhouse and the image; with every file's hash
#   cpu.txt            no GPU, a local CPU-only torch file is at hand: no CUDA libraries
#   cpu-cuda-torch.txt no GPU and no local torch file: the registry's torch, which is the CUDA build and
#                      cannot be imported without its CUDA libraries; onnxruntime stays the CPU one
#   dev.txt            what tests, checks and the demo need on top
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=${UV:-.venv/bin/uv}
lists=scripts/requirements
compile() { "$uv" pip compile -q --universal --python-version 3.11 --no-header --no-annotate pyproject.toml "$@"; }
compile --extra gpu --generate-hashes --no-emit-package onnxruntime --no-emit-package opencv-python -o "$lists/gpu.txt"
printf 'torch==2.10.0\nonnxruntime-gpu[cuda,cudnn]==1.26.0\n' | compile --extra gpu --generate-hashes --override - \
    --no-emit-package onnxruntime --no-emit-package opencv-python -o "$lists/gpu-cu12.txt"
compile --extra cpu -o "$lists/cpu-cuda-torch.txt"
grep -vE '^(nvidia|cuda|triton)' "$lists/cpu-cuda-torch.txt" > "$lists/cpu.txt"
"$uv" pip compile -q --universal --python-version 3.11 --no-header --no-annotate --group dev \
    -c "$lists/cpu-cuda-torch.txt" -o "$lists/dev.all.txt"
grep -vxFf "$lists/cpu-cuda-torch.txt" "$lists/dev.all.txt" > "$lists/dev.txt"
rm "$lists/dev.all.txt"
# packaging is in every list already
"$uv" pip compile -q --python-version 3.11 --no-header --no-annotate --generate-hashes --no-emit-package packaging \
    -c "$lists/gpu.txt" -c "$lists/dev.txt" "$lists/build.in" -o "$lists/build.txt"
# Older versions of fal's own client, against which the server is tested.
for version in 0.5.9 0.7.0; do
    echo "fal-client==$version" | "$uv" pip compile -q --python-version 3.11 --no-header --no-annotate --generate-hashes - \
        -o "$lists/clients-$version.txt"
done
# Every line carries the same marker, the environment of [tool.uv]: say it once, here, and keep the lists readable.
sed -i -E "s/ and (implementation_name == 'cpython'|platform_machine == 'x86_64'|platform_python_implementation [!=]= '(PyPy|CPython)'|sys_platform == 'linux')//g; s/ ; python_full_version < '3.15'( \\\\)?$/\\1/" "$lists"/*.txt
