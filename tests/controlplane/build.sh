#!/usr/bin/env bash
# Where is a control plane to test against? Prints a directory that holds etcd, kube-apiserver and
# kube-controller-manager.
#
# KUBEBUILDER_ASSETS, when it holds etcd and kube-apiserver, is the answer as it is. Otherwise
# main.go is built, once, under a name made of everything that goes into the build.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/once.sh
source "$here/../once.sh"

what=controlplane
components=(etcd kube-apiserver kube-controller-manager)

# The version go.mod asks for, as vMAJOR.MINOR.PATCH.
kubernetes_version() {
  awk '$1 == "k8s.io/kubernetes" { print $2; exit }' "$here/go.mod"
}

# Without a version the API server reports 0.0 and refuses its own feature checks.
ldflags() {
  local version=$1 numbers major minor
  numbers=${version#v}
  major=${numbers%%.*}
  minor=${numbers#*.}
  minor=${minor%%.*}
  local package=k8s.io/component-base/version
  printf -- '-s -w -X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s' \
    "$package" "$version" "$package" "$major" "$package" "$minor"
}

complete() {
  local component
  for component in "${components[@]}"; do
    [[ -x $1/$component ]] || return 1
  done
}

# Given by the environment: take it, and say what it lacks.
given() {
  local dir=${KUBEBUILDER_ASSETS:-}
  [[ -n $dir ]] || return 1
  if ! [[ -x $dir/etcd && -x $dir/kube-apiserver ]]; then
    say "KUBEBUILDER_ASSETS holds no etcd and kube-apiserver; building our own instead"
    return 1
  fi
  [[ -x $dir/kube-controller-manager ]] ||
    say "KUBEBUILDER_ASSETS holds no kube-controller-manager: nothing will create default ServiceAccounts, collect garbage or run Deployments"
  printf '%s\n' "$dir"
}

# One binary under three names.
go_build() {
  local component
  for component in "${components[@]}"; do ln -s controlplane "$1/$component"; done
  cd "$here" && CGO_ENABLED=0 exec go build -trimpath -ldflags "$flags" -o "$1/controlplane" .
}

build() {
  command -v go >/dev/null ||
    die "building needs Go $(awk '$1 == "go" { print $2 }' "$here/go.mod") or newer; install it, or set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver"
  say "building etcd and Kubernetes $version from source, for the demo and the tests to run against"
  say "the first time takes minutes (about eight on two cores); later runs find it in the cache"
  staged "$1" go_build
  # What no run has asked for in a month was made of sources since changed.
  find "$cache" -maxdepth 1 -name 'controlplane-*' -mtime +30 -exec rm -rf {} +
}

main() {
  given && return

  local version flags key
  version=$(kubernetes_version)
  [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || die "go.mod names no k8s.io/kubernetes version"
  flags=$(ldflags "$version")
  key=$({ cat "$here/go.mod" "$here/go.sum" "$here/main.go"; printf '%s' "$flags"; } | version_of)
  once "$key"
  touch "$found"
  printf '%s\n' "$found"
}

main "$@"
