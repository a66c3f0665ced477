#!/usr/bin/env bash
# Where is the OPA that Mandate is measured beside? Prints the path of its binary. It is built, once.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/once.sh
source "$here/../../tests/once.sh"

what=opa

complete() { [[ -x $1/opa ]]; }

go_build() { cd "$here" && CGO_ENABLED=0 exec nice go build -trimpath -o "$1/opa" .; }

build() {
  command -v go >/dev/null || die "building needs Go $(awk '$1 == "go" { print $2 }' "$here/go.mod") or newer"
  say "building OPA from source, to measure beside; some minutes, once"
  staged "$1" go_build
}

main() {
  local key
  key=$(cat "$here"/go.mod "$here"/go.sum "$here"/*.go | version_of)
  once "$key"
  printf '%s\n' "$found/opa"
}

main "$@"
