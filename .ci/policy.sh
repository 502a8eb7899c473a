#!/usr/bin/env bash
# What no tool checks: nothing in the tree belongs to one machine or one host, and files stay readable.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Lines of a source file before its unit tests; files of tests only may be longer.
MAX_LINES=500

failed=0
complain() {
  printf '%s\n' "$*" >&2
  failed=1
}

# Paths of one machine, and hosts that serve code or packages. The brackets keep this file from
# matching itself. Cargo.lock names crates.io's index, as cargo writes it.
foreign='/wor[k]/|/roo[t]/|/hom[e]/[a-z]|git(hu[b]|la[b])\.(com|io)|bitbucke[t]\.org|codeber[g]\.org'
foreign+='|(index|static)\.crate[s]\.io|pyp[i]\.org|registr[y]\.npmjs|de[b]\.debian\.org|artifactor[y]'
if git grep --line-number --extended-regexp "$foreign" -- . ':!*Cargo.lock'; then
  complain 'above: a machine path, a registry or a hosting address; name things, not places'
fi
if grep --line-number --extended-regexp "$foreign" Cargo.lock fuzz/Cargo.lock benches/instructions/Cargo.lock | grep --invert-match 'source = "registry+'; then
  complain 'above: Cargo.lock takes something from elsewhere than crates.io'
fi

while IFS= read -r file; do
  lines=$(awk '/^#\[cfg\(test\)\]/ { exit } { lines++ } END { print lines + 0 }' "$file")
  if [[ $lines -gt $MAX_LINES ]]; then
    complain "$file: $lines lines without its tests; $MAX_LINES are enough for one concept"
  fi
done < <(git ls-files '*.rs' '*.sh' .ci/run ':!tests/*.rs' ':!*/tests.rs')

exit "$failed"
