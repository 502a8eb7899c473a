# shellcheck shell=bash
# checks.sh - cases of a guest, told and counted. Sourced by what runs in the guest.

passed=0
failed=0

say() { printf '%s\n' "$*"; }

# check DESCRIPTION COMMAND…
check() {
  local description=$1 start=$SECONDS
  shift
  say "=== $description"
  # Not `if "$@"`: that would switch `set -e` off inside functions.
  set +e
  (set -e; "$@")
  local code=$?
  set -e
  if [ "$code" = 0 ]; then
    say "PASS $description ($((SECONDS - start)) s)"
    passed=$((passed + 1))
  else
    say "FAIL $description ($((SECONDS - start)) s)"
    failed=$((failed + 1))
  fi
  say
}

# not COMMAND…: it fails. What `! COMMAND` is to a condition; `set -e` does not see that one.
not() { if "$@"; then return 1; fi; }

# The last line; fails when a case did.
verdict() {
  say "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}
