# Sourced by the scripts that build or install, once, what tests and benches run against: into a
# cache outside the checkout, which MANDATE_CACHE moves. Such a script prints a path as its last line
# on stdout, and everything said to a human goes to stderr.
#
# It sets `what`, its own name, and has two functions: `complete DIR` says whether everything is
# there, and `build DIR` makes it.

cache=${MANDATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mandate}

say() { printf '%s: %s\n' "$what" "$*" >&2; }
die() { say "$@"; exit 1; }

# A version of what is read: the first digits of its SHA-256.
version_of() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-12
}

# Sets `found` to the directory of a version, a word that changes with all that goes into it: what is
# there is never stale. Built where it is missing. Not in a subshell, which a signal would leave alone.
once() {
  local target=$cache/$what-$1
  if ! complete "$target"; then
    mkdir -p "$cache"
    # Two runs at once would each take all cores. Without flock both build, and the rename still
    # keeps the result whole.
    if command -v flock >/dev/null; then
      exec 9>"$cache/$what.lock"
      flock -n 9 || { say "another run is building it; waiting"; flock 9; }
    fi
    complete "$target" || build "$target" 9>&-
  fi
  found=$target
}

# Runs a command with a directory that it fills and that bears its name only when it is whole. What it
# prints is shown where it fails; meanwhile there is a line every 20 s, since silent minutes look
# like a hang.
staged() {
  local target=$1 staging=$1.building.$$ pid status=0
  shift
  mkdir -p "$staging"
  ("$@" "$staging") >"$staging.log" 2>&1 &
  pid=$!
  # shellcheck disable=SC2064  # the values of now, not of the moment of the signal
  trap "kill $pid 2>/dev/null; rm -rf '$staging' '$staging.log'" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    ((SECONDS % 20)) || say "still building, $SECONDS s so far"
  done
  wait "$pid" || status=$?
  if ((status != 0)); then
    cat "$staging.log" >&2
    die "building failed; the output is above"
  fi
  # A half-removed one may be in the way.
  rm -rf "$target" "$staging.log"
  mv "$staging" "$target"
  trap - EXIT INT TERM
  say "built in $SECONDS s"
}
