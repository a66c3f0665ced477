#!/usr/bin/env bash
# Where is a Helm to render the chart with? Prints the path of a helm binary.
#
# HELM, when it is set, is the answer as it is. Otherwise Helm is built, once, from its Go module.
set -euo pipefail

# shellcheck source=tests/once.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/once.sh"

what=helm
version=v4.3.1

complete() { [[ -x $1/helm ]]; }

# Outside any module: the versions are those that Helm itself asks for. Nice, because it is rarely
# the only thing that runs.
go_install() {
  cd "$1" && exec env GOBIN="$1" CGO_ENABLED=0 GOFLAGS=-trimpath nice go install "helm.sh/helm/v4/cmd/helm@$version"
}

build() {
  command -v go >/dev/null || die "building needs Go; install it, or set HELM to a helm binary of version 4"
  say "building Helm $version from source, to render the chart with; some minutes, once"
  staged "$1" go_install
}

main() {
  if [[ -n ${HELM:-} ]]; then
    command -v "$HELM" || die "HELM is $HELM, which cannot be run"
    return
  fi
  once "$version"
  printf '%s\n' "$found/helm"
}

main "$@"
