#!/bin/sh
# Installs Veraicon without network, for the user who runs it:  sh install.sh SOURCE FOLDER [SHA256]
#   SOURCE   a bundle (made by `veraicon bundle --all FILE`; its name without .001, .002 …), or a wheelhouse folder
#   FOLDER   FOLDER/venv gets the application; from a bundle, FOLDER/data/weights gets the weights
#   SHA256   of the bundle's index, as `veraicon bundle` printed it: another bundle is refused
# PYTHON=/path/to/python3.11 chooses the Python. A second call is an upgrade: the application before stays beside it.
set -eu

fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

[ $# = 2 ] || [ $# = 3 ] || fail "usage: sh install.sh SOURCE FOLDER [SHA256]"
source=$1
expected=${3:-}
python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is missing. Install Python with its venv module, or set PYTHON=/path/to/python3."
mkdir -p "$2"
folder=$(cd "$2" && pwd)
unpacked="$folder/.unpacked"
trap 'rm -rf "$unpacked"' EXIT

# The bundle, in one piece or in parts, as one stream. Who reads may stop early.
stream() {
    if [ -f "$source" ]; then cat "$source"; else cat "$source".[0-9][0-9][0-9]; fi 2>/dev/null || true
}

# Sums of the application's files as the bundle's index has them, as sha256sum wants them.
sums() {
    "$python" -c '
import json, sys
for member in json.load(open(sys.argv[1]))["members"]:
    if member["path"].startswith("application/"):
        print(member["sha256"], member["path"], sep="  ")' "$unpacked/index.json"
}

unpack_application() {
    [ -f "$source" ] || [ -f "$source.001" ] || fail "there is no bundle $source (nor $source.001)."
    rm -rf "$unpacked"
    mkdir "$unpacked"
    stream | tar --occurrence=1 --no-same-owner -xf - -C "$unpacked" index.json || fail "$source is no bundle, or cut short."
    found=$(sha256sum "$unpacked/index.json" | cut -d' ' -f1)
    echo "install: index sha256 $found"
    [ "${expected:-$found}" = "$found" ] || fail "$source is another bundle than $expected. Do not install it."
    sums >"$unpacked/sums" || fail "the index of $source cannot be read. Copy the bundle again."
    [ -s "$unpacked/sums" ] || fail "$source holds weights only: \`veraicon weights install $source\` installs them."
    cut -c67- "$unpacked/sums" >"$unpacked/names"
    echo "install: unpacking the application"
    stream | tar --occurrence=1 --no-same-owner -xf - -C "$unpacked" -T "$unpacked/names" \
        || fail "$source is cut short, or a part is missing. Copy it again."
    [ -z "$(find "$unpacked" ! -type f ! -type d)" ] || fail "$source holds links or devices: it is not what was made. Copy it again."
    (cd "$unpacked" && sha256sum --check --strict --quiet sums) || fail "$source is damaged (see above). Copy it again."
}

# $1: folder of wheels. The new venv takes its name when it is complete, so that a killed call leaves the old one.
install_application() {
    (cd "$1" && sha256sum --check --strict --quiet SHA256SUMS) || fail "$1 is damaged (see above). Copy it again."
    "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$(cat "$1/python")')" \
        || fail "the wheels are for Python $(cat "$1/python"); $python is $("$python" -V 2>&1). Set PYTHON=/path/to/python$(cat "$1/python")."
    name="venv-$(sha256sum <"$1/SHA256SUMS" | cut -c-12)"
    if [ ! -f "$folder/$name/complete" ]; then
        echo "install: making $folder/$name; this takes some minutes"
        rm -rf "${folder:?}/$name"
        "$python" -m venv "$folder/$name" || fail "no venv can be made. Debian/Ubuntu: the package python3-venv is missing."
        "$folder/$name/bin/python" -m pip install --disable-pip-version-check --no-index --find-links "$1" --no-deps \
            --require-hashes -r "$1/requirements.txt" || fail "the wheels cannot be installed (see above)."
        touch "$folder/$name/complete"
    fi
    [ "$(readlink "$folder/venv" || true)" = "$name" ] || switch
}

# One rename switches; the application before it is kept, older ones go.
switch() {
    before=$(readlink "$folder/venv" || true)
    ln -sfn "$name" "$folder/.venv.new"
    mv -T "$folder/.venv.new" "$folder/venv"
    [ -z "$before" ] || ln -sfn "$before" "$folder/venv.before"
    for old in "$folder"/venv-*; do
        case "${old##*/}" in "$name" | "$before") ;; *) rm -rf "$old" ;; esac
    done
}

if [ -d "$source" ]; then
    [ -f "$source/SHA256SUMS" ] || fail "$source is no complete wheelhouse: SHA256SUMS is missing. Make it with \`make wheelhouse\`."
    install_application "$(cd "$source" && pwd)"
else
    unpack_application
    install_application "$unpacked/application"
    rm -rf "$unpacked"
    "$folder/venv/bin/veraicon" weights install "$source" --sha256 "$found" --data-dir "$folder/data"
fi
echo "install: done. Next: $folder/venv/bin/veraicon doctor --data-dir $folder/data"
