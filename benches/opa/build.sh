#!/usr/bin/env bash
# Where is the OPA that Mandate is measured beside? Prints, as the last line on stdout, the
# path of its binary. Everything said to a human goes to stderr.
#
# It is built, once, into a cache outside the checkout, under a name made of its sources.
# MANDATE_CACHE moves the cache.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'opa: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

build() {
  local target=$1
  local staging=$target.building.$$
  command -v go >/dev/null || die "building needs Go $(awk '$1 == "go" { print $2 }' "$here/go.mod") or newer"
  say "building OPA from source, to measure beside; some minutes, once"
  mkdir -p "$staging"
  # shellcheck disable=SC2064  # the value of now, not of the moment of the signal
  trap "rm -rf '$staging'" EXIT
  (cd "$here" && CGO_ENABLED=0 nice go build -trimpath -o "$staging/opa" .) >&2 || die "go build failed; its output is above"
  # Only a finished build ever bears the name. A half-removed one may be in the way.
  rm -rf "$target"
  mv "$staging" "$target"
  trap - EXIT
  say "built in $SECONDS s"
}

main() {
  local cache key target
  key=$(cat "$here"/go.mod "$here"/go.sum "$here"/*.go | sha256 | cut -c1-12)
  cache=${MANDATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mandate}
  target=$cache/opa-$key
  if ! [[ -x $target/opa ]]; then
    mkdir -p "$cache"
    # Without flock two runs both build, and the rename still keeps the result whole.
    if command -v flock >/dev/null; then
      exec 9>"$cache/opa.lock"
      flock -n 9 || { say "another run is building it; waiting"; flock 9; }
    fi
    [[ -x $target/opa ]] || build "$target" 9>&-
  fi
  printf '%s\n' "$target/opa"
}

main "$@"
