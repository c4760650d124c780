#!/usr/bin/env bash
# Installs fal's published clients for the tests: scripts/clients.sh [all]. A second call is instant.
# JavaScript needs Node 20 and npm on the machine; without them, or without a registry, the tests say what did not run.
# With CI=true every client must be there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
versions=(0.7.0)
[ "${1:-}" != all ] || versions+=(0.5.9)

lacking() {
    printf 'clients: %s\n' "$*" >&2
    [ "${CI:-}" != true ] || exit 1
}

install_javascript() {
    local folder=tests/clients/js major
    command -v npm >/dev/null || { lacking "npm is missing, so fal's JavaScript clients are not tested. Debian/Ubuntu: apt install nodejs npm"; return; }
    major=$(node -p 'process.versions.node.split(".")[0]')
    [ "$major" -ge 20 ] || { lacking "Node 20 or newer is needed to test fal's JavaScript clients; node is $(node --version)."; return; }
    cmp -s "$folder/package-lock.json" "$folder/node_modules/.installed-from" && return
    echo "clients: installing fal's JavaScript clients into $folder/node_modules"
    if npm ci --prefix "$folder" --loglevel=error; then
        cp "$folder/package-lock.json" "$folder/node_modules/.installed-from"
    else
        lacking "npm could not install fal's JavaScript clients (see above); they are not tested."
    fi
}

# $1: version, into an environment of its own, for two versions cannot share one.
install_python() {
    local list="scripts/requirements/clients-$1.txt" folder="$venv/clients/$1"
    cmp -s "$list" "$folder/.installed-from" && return
    echo "clients: installing fal-client $1 into $folder"
    rm -rf "$folder"
    if "$venv/bin/python" -m venv --without-pip "$folder" \
        && "$venv/bin/python" -m pip --python "$folder/bin/python" install -q --require-hashes -r "$list" \
            2> >(grep -v 'is ignored' >&2); then
        cp "$list" "$folder/.installed-from"
    else
        lacking "fal-client $1 could not be installed (see above); it is not tested."
    fi
}

install_javascript
for version in "${versions[@]}"; do install_python "$version"; done
