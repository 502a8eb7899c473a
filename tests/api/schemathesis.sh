#!/usr/bin/env bash
# A running director against docs/openapi.yaml: schemathesis sends what the description allows and what it forbids, and
# every answer must be one that is described. Changes of backends, reloads and wrong bodies are among it.
#
#   tests/api/schemathesis.sh [EXAMPLES]
#
# Needs root, python3 and pip3; installs schemathesis from PyPI into a folder of the user's cache, once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=netns-scripts/lib.sh
. netns-scripts/lib.sh

VERSION=4.32.5
EXAMPLES=${1:-25}
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/tunlb-ci/schemathesis-$VERSION

if [[ -z ${TUNLB_API_INSIDE:-} ]]; then
  if [[ ! -x $TOOLS/bin/st ]]; then
    pip3 install --quiet --target "$TOOLS" "schemathesis==$VERSION"
  fi
  cargo build --quiet --locked
  exec env TUNLB_API_INSIDE=1 unshare --net --mount -- tests/api/schemathesis.sh "$EXAMPLES"
fi

mount -t tmpfs tmpfs /run
lone_host 10.99.0.2/24
cat >/run/tunlb.toml <<'T'
[director]
api = "/run/api.sock"
hash_key = "5f1d9b0c3a7e42868d21c4b6f09e7a13"
[[vip]]
name = "web"
address = "203.0.113.10"
[[vip.backend]]
address = "10.99.0.11"
[[vip.backend]]
address = "10.99.0.12"
T

PIDS=()
trap 'kill "${PIDS[@]}" 2>/dev/null || true' EXIT
target/debug/tunlb run -c /run/tunlb.toml >/run/out 2>/run/err &
PIDS+=($!)
wait_until 30 test -S /run/api.sock || { cat /run/err >&2; fail 'the director does not start'; }

# schemathesis speaks TCP only.
python3 tests/api/tcp.py 8080 /run/api.sock &
PIDS+=($!)

# Events that are followed end with the director; all else is tried.
PYTHONPATH=$TOOLS "$TOOLS/bin/st" run docs/openapi.yaml --url http://127.0.0.1:8080 --exclude-operation-id events \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
  --max-examples "$EXAMPLES" --request-timeout 35 --wait-for-schema 10 --seed 1 --no-color

kill -0 "${PIDS[0]}" || { cat /run/err >&2; exit 1; }
if grep --line-number 'panic' /run/err; then
  exit 1
fi
