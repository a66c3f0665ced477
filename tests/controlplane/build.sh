#!/usr/bin/env bash
# Where is a control plane to test against? Prints, as the last line on stdout, a
# directory that holds etcd, kube-apiserver and kube-controller-manager. Everything
# said to a human goes to stderr.
#
# KUBEBUILDER_ASSETS, when it holds etcd and kube-apiserver, is the answer as it is.
# Otherwise main.go is built, once, into a cache outside the checkout, under a name
# made of everything that goes into the build: a changed source is another directory,
# so what is there is never stale. MANDATE_CACHE moves the cache.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
components=(etcd kube-apiserver kube-controller-manager)

say() { printf 'controlplane: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

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

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
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

# One line every 20 s until the build ends: eight silent minutes look like a hang.
watch_build() {
  local pid=$1 start=$SECONDS next=20
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    if ((SECONDS - start >= next)); then
      say "still building, $((SECONDS - start)) s so far"
      next=$((next + 20))
    fi
  done
}

build() {
  local cache=$1 target=$2 version=$3 flags=$4
  local staging=$target.building.$$ go_pid status=0
  command -v go >/dev/null ||
    die "building needs Go $(awk '$1 == "go" { print $2 }' "$here/go.mod") or newer; install it, or set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver"
  say "building etcd and Kubernetes $version from source, for the demo and the tests to run against"
  say "the first time takes minutes (about eight on two cores); later runs find it in the cache"

  mkdir -p "$staging"
  # shellcheck disable=SC2064  # the values of now, not of the moment of the signal
  trap "rm -rf '$staging'" EXIT
  (cd "$here" && exec env CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$staging/controlplane" .) \
    >"$staging/build.log" 2>&1 &
  go_pid=$!
  # shellcheck disable=SC2064
  trap "kill $go_pid 2>/dev/null; rm -rf '$staging'" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  watch_build "$go_pid"
  wait "$go_pid" || status=$?
  if ((status != 0)); then
    cat "$staging/build.log" >&2
    die "go build failed; its output is above"
  fi

  local component
  for component in "${components[@]}"; do ln -s controlplane "$staging/$component"; done
  rm -f "$staging/build.log"
  # Only a finished build ever bears the name. A half-removed one may be in the way.
  rm -rf "$target"
  mv "$staging" "$target"
  trap - EXIT INT TERM
  say "built in $SECONDS s"
  # What no run has asked for in a month was made of sources since changed.
  find "$cache" -maxdepth 1 -name 'controlplane-*' -mtime +30 -exec rm -rf {} +
}

main() {
  given && return

  local version flags key cache target
  version=$(kubernetes_version)
  [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || die "go.mod names no k8s.io/kubernetes version"
  flags=$(ldflags "$version")
  key=$({ cat "$here/go.mod" "$here/go.sum" "$here/main.go"; printf '%s' "$flags"; } | sha256 | cut -c1-12)
  cache=${MANDATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mandate}
  target=$cache/controlplane-$key

  if ! complete "$target"; then
    mkdir -p "$cache"
    # Two runs at once would each take all cores for minutes. Without flock both
    # build, and the rename still keeps the result whole.
    if command -v flock >/dev/null; then
      exec 9>"$cache/controlplane.lock"
      flock -n 9 || { say "another run is building it; waiting"; flock 9; }
    fi
    complete "$target" || build "$cache" "$target" "$version" "$flags" 9>&-
  fi
  touch "$target"
  printf '%s\n' "$target"
}

main "$@"
