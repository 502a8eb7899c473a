#!/usr/bin/env bash
# Counts the instructions that a packet costs in the core, and fails where a count grew by more than 10 %.
#
#   .ci/instructions.sh            compares with the committed counts
#   .ci/instructions.sh --update   makes what is counted now the committed counts
#
# Instructions, not time: they do not depend on what else the machine does. They do depend on the compiler;
# a new one may need an update. Needs valgrind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

COUNTS=benches/instructions/counts
# Every shape of benches/instructions/main.rs.
SHAPES=(known-4in4 known-6in6 known-4in4-gue new-4in4)
# Of a run; a second one has twice as many, and the difference is of packets alone.
PACKETS=20000

main() {
  local program counts
  cargo build --quiet --locked --release --manifest-path benches/instructions/Cargo.toml
  program=$(cargo metadata --locked --offline --no-deps --format-version 1 \
    --manifest-path benches/instructions/Cargo.toml | jq -r .target_directory)/release/instructions
  counts=$(for shape in "${SHAPES[@]}"; do
    printf '%s %d\n' "$shape" "$(per_packet "$program" "$shape")"
  done)
  if [[ ${1:-} = --update ]]; then
    printf '%s\n' "$counts" >"$COUNTS"
  fi
  compare <<<"$counts"
}

per_packet() {
  local once twice
  once=$(instructions "$1" "$2" "$PACKETS")
  twice=$(instructions "$1" "$2" $((2 * PACKETS)))
  echo $(((twice - once) / PACKETS))
}

instructions() {
  local output
  output=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$@" 2>&1)
  awk '/Collected : / { count = $NF } END { print count; exit !(count > 0) }' <<<"$output"
}

# Reads counts; every shape must be committed, or the gate would pass what it does not know.
compare() {
  awk '
    NR == FNR { committed[$1] = $2; next }
    {
      verdict = "ok"
      if (!($1 in committed)) verdict = "not committed"
      else if ($2 > committed[$1] * 1.1) verdict = "MORE THAN 10 % ABOVE"
      else if ($2 < committed[$1] * 0.9) verdict = "better: --update keeps it so"
      if (verdict ~ /^(not|MORE)/) failed = 1
      printf "%-16s %6d instructions a packet, %6d committed: %s\n", $1, $2, committed[$1], verdict
    }
    END { exit failed }
  ' "$COUNTS" -
}

main "$@"
