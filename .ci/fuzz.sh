#!/usr/bin/env bash
# Builds all fuzz targets and runs each for a bounded time.
#
#   .ci/fuzz.sh [SECONDS [TARGET...]]     10 seconds and all targets when not said
#
# Needs a C++ compiler (libFuzzer is built from source) and a nightly toolchain, or else lets the stable
# one take nightly's flags. A crash ends the run; its input is in fuzz/artifacts. What a run finds new
# goes to fuzz/corpus under hashed names, which git ignores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The release that was tested; built from source, once per machine.
FUZZ_VERSION=0.13.2
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/tunlb-ci

main() {
  local seconds=${1:-10} targets=("${@:2}") target cargo=(cargo) profile=()
  install_cargo_fuzz
  export PATH=$TOOLS/bin:$PATH
  if cargo +nightly --version >/dev/null 2>&1; then
    cargo=(cargo +nightly)
  else
    export RUSTC_BOOTSTRAP=1
  fi
  if [[ ${#targets[@]} -eq 0 ]]; then
    mapfile -t targets < <("${cargo[@]}" fuzz list --fuzz-dir fuzz)
  fi
  [[ ${#targets[@]} -gt 0 ]] || { echo 'no fuzz target' >&2; exit 1; }
  # Optimizing takes longer than all short runs together.
  [[ $seconds -gt 60 ]] || profile=(--dev)
  "${cargo[@]}" fuzz build "${profile[@]}" --fuzz-dir fuzz
  for target in "${targets[@]}"; do
    printf -- '-- %s, %d s\n' "$target" "$seconds"
    "${cargo[@]}" fuzz run "${profile[@]}" --fuzz-dir fuzz "$target" -- \
      -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 \
      -verbosity=0 -print_funcs=0 -print_final_stats=1
  done
}

install_cargo_fuzz() {
  if [[ $("$TOOLS/bin/cargo-fuzz" --version 2>/dev/null) != "cargo-fuzz $FUZZ_VERSION" ]]; then
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
      CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
      cargo install --quiet --locked --force --root "$TOOLS" "cargo-fuzz@$FUZZ_VERSION"
  fi
}

main "$@"
