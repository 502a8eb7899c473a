#!/usr/bin/env bash
# What seeing and changing a running director costs with 10,000 VIPs of 10 backends each (docs/performance.md).
#
#   benches/many-vips.sh [PROGRAM]        the release binary when not said
#
# Needs root, curl and python3; runs in namespaces of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=netns-scripts/lib.sh
. netns-scripts/lib.sh

PROGRAM=${1:-target/release/tunlb}
if [[ -z ${TUNLB_MANY_INSIDE:-} ]]; then
  [[ -x $PROGRAM ]] || cargo build --release --locked
  exec env TUNLB_MANY_INSIDE=1 unshare --net --mount --pid --fork --mount-proc -- benches/many-vips.sh "$PROGRAM"
fi

mount -t tmpfs tmpfs /run
lone_host 10.99.0.2/16
python3 - >/run/tunlb.toml <<'P'
print('[director]\nhash_key = "5f1d9b0c3a7e42868d21c4b6f09e7a13"\napi = "/run/api.sock"\nmetrics = "127.0.0.1:9810"')
print('[metrics]\nper_backend = true')
backends = ", ".join('{address = "10.99.1.%d"}' % backend for backend in range(1, 11))
for vip in range(10000):
    print(f'[[vip]]\nname = "v{vip}"\naddress = "198.18.{vip // 256}.{vip % 256}"\nbackend = [{backends}]')
P

"$PROGRAM" run -c /run/tunlb.toml >/run/out 2>/run/err &
DIRECTOR=$!
trap 'kill "$DIRECTOR" 2>/dev/null || true' EXIT
wait_until 60 test -S /run/api.sock || { cat /run/err >&2; fail 'the director does not start'; }

# asked WHAT CURL-ARGUMENTS...
asked() {
  local what=$1
  shift
  curl --silent --output /dev/null --write-out "$what: %{http_code}, %{time_total} s, %{size_download} bytes\n" "$@"
}

for _ in 1 2 3 4 5; do
  asked 'status' --unix-socket /run/api.sock http://tunlb/v1/status
done
for _ in 1 2 3 4 5; do
  asked 'metrics' http://127.0.0.1:9810/metrics
done
for weight in 5 6 7 8 9; do
  asked 'change of a backend, adopted' --unix-socket /run/api.sock --request PATCH --data "{\"weight\": $weight}" \
    'http://tunlb/v1/backends?vip=v5000&address=10.99.1.3'
done
kill -HUP "$DIRECTOR"
asked 'one VIP while a reload is applied' --unix-socket /run/api.sock 'http://tunlb/v1/status?vip=v1'
grep VmRSS "/proc/$DIRECTOR/status"
