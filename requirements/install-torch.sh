#!/bin/sh
# Install torch into the environment of a Python, unless it has it: install-torch.sh PYTHON VERSION BACKEND
# BACKEND: cpu (no CUDA is downloaded), auto (what the machine's GPU needs), or a CUDA version such as cu128.
# A wheel of PyPI must have a hash of torch.lock. Wheels of PyTorch's own index and of a folder that pip is configured
# with are taken by version alone.
set -eu
python=$1 version=$2 backend=$3
lock=$(dirname "$0")/torch.lock

if "$python" -c 'import torch' 2>/dev/null; then
  exit 0
fi
if [ "$backend" = cpu ]; then
  if "$python" -m pip install --quiet --no-deps "torch==$version+cpu" 2>/dev/null; then
    exit 0
  fi
  case "$(uname -s)-$(uname -m)" in
    Darwin-* | Linux-aarch64 | Linux-arm64)
      grep -q "^torch==$version " "$lock" || { echo "$lock has no hashes of torch $version: make lock" >&2; exit 1; }
      exec "$python" -m pip install --quiet --no-deps --require-hashes --requirement "$lock"
      ;;
  esac
fi
"$python" -m pip install --quiet uv
exec "$python" -m uv pip install --python "$python" --no-deps --torch-backend="$backend" "torch==$version"
