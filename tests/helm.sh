#!/usr/bin/env bash
# Where is a Helm to render the chart with? Prints, as the last line on stdout, the path
# of a helm binary. Everything said to a human goes to stderr.
#
# HELM, when it is set, is the answer as it is. Otherwise Helm is built, once, from its Go
# module into a cache outside the checkout, under a name with its version. MANDATE_CACHE
# moves the cache.
set -euo pipefail

version=v4.3.1

say() { printf 'helm: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

build() {
  local target=$1
  local staging=$target.building.$$ status=0
  command -v go >/dev/null || die "building needs Go; install it, or set HELM to a helm binary of version 4"
  say "building Helm $version from source, to render the chart with; some minutes, once"
  mkdir -p "$staging"
  # shellcheck disable=SC2064  # the value of now, not of the moment of the signal
  trap "rm -rf '$staging'" EXIT
  # Outside any module: the versions are those that Helm itself asks for. Nice, because it
  # is rarely the only thing that runs.
  (cd "$staging" && exec env GOBIN="$staging" CGO_ENABLED=0 GOFLAGS=-trimpath \
    nice go install "helm.sh/helm/v4/cmd/helm@$version") >"$staging/build.log" 2>&1 || status=$?
  if ((status != 0)); then
    cat "$staging/build.log" >&2
    die "go install failed; its output is above"
  fi
  rm -f "$staging/build.log"
  # Only a finished build ever bears the name. A half-removed one may be in the way.
  rm -rf "$target"
  mv "$staging" "$target"
  trap - EXIT
  say "built in $SECONDS s"
}

main() {
  if [[ -n ${HELM:-} ]]; then
    command -v "$HELM" || die "HELM is $HELM, which cannot be run"
    return
  fi
  local cache=${MANDATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mandate}
  local target=$cache/helm-$version
  if ! [[ -x $target/helm ]]; then
    mkdir -p "$cache"
    # Two runs at once would each take all cores. Without flock both build, and the rename
    # still keeps the result whole.
    if command -v flock >/dev/null; then
      exec 9>"$cache/helm.lock"
      flock -n 9 || { say "another run is building it; waiting"; flock 9; }
    fi
    [[ -x $target/helm ]] || build "$target" 9>&-
  fi
  printf '%s\n' "$target/helm"
}

main "$@"
