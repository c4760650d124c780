#!/usr/bin/env bash
# Fills a folder with everything that a machine without internet needs to install Veraicon:
#   scripts/wheelhouse.sh [gpu|gpu-cu12|cpu] [FOLDER]      default: gpu, into wheelhouse/
# Run it on a connected machine with the same Python (3.11 for 3.11). A second call downloads only what is not there yet.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-gpu}
folder=${2:-wheelhouse}
lists=${LISTS:-scripts/requirements}
python=${PYTHON:-.venv/bin/python}

fail() { printf 'wheelhouse: %s\n' "$*" >&2; exit 1; }

# Never resolves, never builds: exactly the files of the list. pip shows a progress bar per file.
download() {
    "$python" -m pip download --disable-pip-version-check --no-deps --only-binary :all: -d "$folder" "$@" \
        2> >(grep -v 'is ignored' >&2) || fail "a file of ${*: -1} cannot be had (see above). Run again: what is there is kept."
}

check_disk() {
    local free_mb
    mkdir -p "$folder"
    free_mb=$(df -Pm "$folder" | awk 'NR==2 {print $4}')
    [ "$free_mb" -ge "$1" ] || fail "$1 MB of disk are needed in $folder, $free_mb MB are free. Make room and run again."
}

case "$kind" in auto) kind=gpu ;; gpu | gpu-cu12 | cpu) ;; *) fail "unknown kind '$kind'; use gpu, gpu-cu12 or cpu" ;; esac
"$python" -c "import hatchling" >/dev/null 2>&1 || fail "$python has no hatchling. Run \`make setup\` first."
echo "wheelhouse: $kind, for $("$python" -V), into $folder"
case "$kind" in
    gpu | gpu-cu12)
        used=("$kind" build)
        check_disk 5000
        download --require-hashes -r "$lists/$kind.txt" ;;
    cpu)
        used=(cpu build)
        check_disk 1500
        download -r "$lists/cpu.txt"
        # The registry's torch is the CUDA build, which cannot be imported without its CUDA libraries.
        if ! compgen -G "$folder/torch-*+cpu-*.whl" >/dev/null; then
            used=(cpu-cuda-torch build)
            check_disk 5000
            download -r "$lists/cpu-cuda-torch.txt"
        fi ;;
esac
download --require-hashes -r "$lists/build.txt"
rm -f "$folder"/veraicon-*.whl
"$python" -m hatchling build -t wheel -d "$folder"
cp scripts/install.sh "$folder"
"$python" -m scripts.wheel_list "$folder" "${used[@]/#/$lists/}"
echo "wheelhouse: done, $(du -sh "$folder" | cut -f1) in $folder"
