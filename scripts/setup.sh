#!/usr/bin/env bash
# Sets up .venv from the pinned lists: scripts/setup.sh [auto|cpu|gpu|gpu-cu12]. A second call with the same lists is instant.
# With WHEELHOUSE=folder (made by `make wheelhouse`) from its wheels alone, without network; then without what tests need.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
lists=scripts/requirements
python=${PYTHON:-python3}

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

check_machine() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "Veraicon runs on Linux x86-64; this is $(uname -s) $(uname -m)."
    command -v "$python" >/dev/null || fail "$python is missing. Debian/Ubuntu: apt install python3 python3-venv make"
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
        || fail "Python 3.11 to 3.14 is needed; $python is $("$python" -V 2>&1). Set PYTHON=/path/to/python3.11 and run again."
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "python3-venv is missing. Debian/Ubuntu: apt install python3-venv"
}

# $1: what to install. The lists with CUDA libraries need about 8 GB, the CPU list about 2 GB.
check_disk() {
    local need_mb=2500 free_mb
    [ "$1" = cpu ] || need_mb=9000
    free_mb=$(df -Pm . | awk 'NR==2 {print $4}')
    [ "$free_mb" -ge "$need_mb" ] || fail "$need_mb MB of disk are needed in $PWD, $free_mb MB are free. Make room and run again."
}

# uv does not read pip's configuration: hand it pip's folder of local wheels and pip's certificates, if there are any.
pip_setting() {
    "$venv/bin/python" -m pip config get ":env:.$1" 2>/dev/null || "$venv/bin/python" -m pip config get "global.$1" 2>/dev/null || true
}

# A local CPU-only torch file is taken with the list without CUDA; the registry's torch needs its CUDA libraries even on a CPU.
choose_list() {
    case "$1" in
        gpu | gpu-cu12) echo "$1" ;;
        cpu)
            local found
            found=$("$uv" pip install --dry-run --no-deps --target "$venv/.probe" torch==2.13.0 2>&1) \
                || fail "no torch 2.13.0 can be had: $found"
            case "$found" in *torch==2.13.0+cpu*) echo cpu ;; *) echo cpu-cuda-torch ;; esac ;;
        auto) if [ $has_gpu = gpu ]; then echo gpu; else choose_list cpu; fi ;;
        *) fail "unknown kind '$1'; use auto, cpu, gpu or gpu-cu12" ;;
    esac
}

# A wheelhouse is whole, meant for this Python, and the only source.
check_wheelhouse() {
    local meant
    (cd "$wheelhouse" && sha256sum --check --strict --quiet SHA256SUMS) || fail "$wheelhouse is damaged (see above). Copy it again."
    meant=$(cat "$wheelhouse/python")
    "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$meant')" \
        || fail "the wheels in $wheelhouse are for Python $meant; $python is $("$python" -V 2>&1). Set PYTHON=/path/to/python$meant."
}

check_machine
wheelhouse=${WHEELHOUSE:-}
case "$wheelhouse" in '' | /*) ;; *) wheelhouse="$PWD/$wheelhouse" ;; esac
[ -z "$wheelhouse" ] || [ -f "$wheelhouse/SHA256SUMS" ] \
    || fail "$wheelhouse is no complete wheelhouse: SHA256SUMS is missing. Make it with \`make wheelhouse\`."
kind=${1:-auto}
stamp="$venv/.setup-stamp"
if nvidia-smi -L >/dev/null 2>&1; then has_gpu=gpu; else has_gpu=no-gpu; fi
made_from=("$lists"/*.txt pyproject.toml scripts/setup.sh)
[ -z "$wheelhouse" ] || made_from+=("$wheelhouse/SHA256SUMS")
want="$(cat "${made_from[@]}" | sha256sum | cut -d' ' -f1) $kind $has_gpu"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

rm -f "$stamp"
if [ -n "$wheelhouse" ]; then
    check_wheelhouse
    export PIP_NO_INDEX=1 PIP_FIND_LINKS="$wheelhouse" UV_FIND_LINKS="$wheelhouse"
fi
[ -x "$venv/bin/python" ] || { echo "setup: making $venv"; "$python" -m venv "$venv"; }
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || fail "$venv is broken. Delete it and run again: rm -rf $venv"
uv="$venv/bin/uv"
[ -x "$uv" ] || "$venv/bin/python" -m pip install -q --disable-pip-version-check 'uv>=0.9' 2> >(grep -v 'is ignored' >&2)
export UV_FIND_LINKS SSL_CERT_FILE VIRTUAL_ENV="$PWD/$venv"
case "$venv" in /*) VIRTUAL_ENV="$venv" ;; esac
UV_FIND_LINKS=${UV_FIND_LINKS:-$(pip_setting find-links)}
SSL_CERT_FILE=${SSL_CERT_FILE:-$(pip_setting cert)}
[ -n "$SSL_CERT_FILE" ] || unset SSL_CERT_FILE

if [ -n "$wheelhouse" ]; then
    list=cpu
    ! compgen -G "$wheelhouse/onnxruntime_gpu-*" >/dev/null || list=gpu
    wanted=(--no-index --require-hashes -r "$wheelhouse/libraries.txt")
    echo "setup: installing from $wheelhouse ($list), without network and without what tests need"
else
    list=$(choose_list "$kind")
    wanted=(-r "$lists/$list.txt" -r "$lists/dev.txt")
    echo "setup: installing $lists/$list.txt and dev.txt (complete pinned lists, no resolving)"
fi
check_disk "$list"
# Compiled now, so that no process ever spends its start on it.
"$uv" pip install --compile-bytecode --no-deps "${wanted[@]}"
"$uv" pip install -q --no-deps --no-build-isolation -e .
"$venv/bin/python" -m compileall -q server pipelines weights
echo "setup: checking that what was installed loads"
"$venv/bin/python" scripts/check_imports.py "$list"
echo "$want" > "$stamp"
echo "setup: done ($list)"
