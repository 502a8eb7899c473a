#!/usr/bin/env bash
# What cargo test cannot check of packaging/: by promtool, a real Prometheus, systemd-analyze and a real browser.
#
#   packaging/check.sh
#
# Needs root, and the Debian packages prometheus, systemd, chromium, curl, jq and python3; the directors that it
# starts run in a network namespace of its own, as the user that the unit gives them. Nothing of systemd is started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=netns-scripts/lib.sh
. netns-scripts/lib.sh

# Of systemd-analyze security; 0 is nothing, 10 everything.
MOST_EXPOSED=2.5

if [[ -z ${TUNLB_CHECK_INSIDE:-} ]]; then
  cargo build --quiet --locked
  exec env TUNLB_CHECK_INSIDE=1 unshare --net --mount -- packaging/check.sh
fi

main() {
  check_rules
  check_units
  mount -t tmpfs tmpfs /run
  mkdir -m 755 /run/lab
  tun_as_of_udev
  start_director
  check_scrape
  check_prometheus
  check_live_page
  printf 'packaging: all as it should be\n'
}

DIRECTORS=()
OTHERS=()
trap 'kill "${DIRECTORS[@]}" "${OTHERS[@]}" 2>/dev/null || true' EXIT

fail() {
  printf 'packaging: %s\n' "$*" >&2
  [[ ! -s /run/lab/director.log ]] || tail -n 20 /run/lab/director.log >&2
  exit 1
}

check_rules() {
  promtool check rules packaging/prometheus/tunlb.rules.yml
  promtool test rules packaging/prometheus/tunlb.rules.test.yml
  jq -e '.panels | length > 20' packaging/grafana/tunlb.json >/dev/null || fail 'the dashboard has no panels'
}

check_units() {
  local unit exposure
  for unit in packaging/systemd/*.service; do
    exposure=$(systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p')
    [[ -n $exposure ]] || fail "$unit: no exposure level"
    awk -v is="$exposure" -v most="$MOST_EXPOSED" 'BEGIN { exit !(is <= most) }' || fail "$unit: exposed by $exposure, more than $MOST_EXPOSED"
    printf '%s: exposure %s\n' "$unit" "$exposure"
  done
  verify_units
}

# systemd-analyze verify wants the program where the units have it; it starts nothing.
verify_units() {
  local said
  said=$(unshare --mount -- sh -euc '
    mount -t tmpfs tmpfs /etc/systemd/system
    cp packaging/systemd/*.service /etc/systemd/system/
    mount -t tmpfs tmpfs /opt
    mkdir -p /opt/bin
    cp target/debug/tunlb /opt/bin/tunlb
    sed -i "s,/usr/bin/tunlb,/opt/bin/tunlb," /etc/systemd/system/tunlb*.service
    systemd-analyze verify --man=no /etc/systemd/system/tunlb.service /etc/systemd/system/tunlb-decap.service 2>&1
  ' | grep -i tunlb || true)
  [[ -z $said ]] || fail "systemd-analyze verify: $said"
}

# What udev makes of it everywhere, and a machine without udev does not; in this mount namespace alone.
tun_as_of_udev() {
  mknod -m 666 /run/lab/tun c 10 200
  mount --bind /run/lab/tun /dev/net/tun
}

# A director as tunlb.service runs it: an ordinary user with the two capabilities, and no way to more.
start_director() {
  lone_host 10.99.0.2/24
  cat >/run/lab/tunlb.toml <<'TOML'
[director]
metrics = "127.0.0.1:9810"
[metrics]
compat = ["node_ipvs"]
[[vip]]
name = "web"
address = "203.0.113.10"
[[vip.backend]]
address = "10.99.0.11"
[[vip.backend]]
address = "10.99.0.12"
weight = 2
TOML
  cp target/debug/tunlb /run/lab/tunlb
  mkdir -m 711 /run/tunlb
  chown nobody /run/tunlb
  setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs --inh-caps=-all,+net_admin,+net_raw \
    --ambient-caps=-all,+net_admin,+net_raw --bounding-set=-all,+net_admin,+net_raw \
    sh -c 'umask 077; exec /run/lab/tunlb run --config /run/lab/tunlb.toml' >/run/lab/director.log 2>&1 &
  DIRECTORS+=($!)
  wait_for 60 'the director' curl --silent --fail --output /dev/null http://127.0.0.1:9810/readyz
}

check_scrape() {
  local kind
  curl --silent --fail http://127.0.0.1:9810/metrics >/run/lab/metrics.txt
  promtool check metrics </run/lab/metrics.txt || fail 'promtool check metrics'
  kind=$(curl --silent --output /dev/null --write-out '%{content_type}' http://127.0.0.1:9810/metrics)
  [[ $kind == 'text/plain; version=0.0.4; charset=utf-8' ]] || fail "content type $kind"
}

# A real server scrapes it, evaluates the rules, and knows what the director says.
check_prometheus() {
  cat >/run/lab/prometheus.yml <<'YAML'
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [/run/lab/tunlb.rules.yml]
scrape_configs:
  - job_name: tunlb
    static_configs: [{ targets: ["127.0.0.1:9810"] }]
YAML
  cp packaging/prometheus/tunlb.rules.yml /run/lab/
  promtool check config /run/lab/prometheus.yml
  prometheus --config.file=/run/lab/prometheus.yml --storage.tsdb.path=/run/lab/tsdb --web.listen-address=127.0.0.1:9090 \
    >/run/lab/prometheus.log 2>&1 &
  OTHERS+=($!)
  wait_for 60 'a scrape' has_value 'up{job="tunlb"}' 1
  wait_for 60 'weights' has_value 'sum(tunlb_backend_weight)' 3
  wait_for 60 'the ring' has_value 'round(sum(tunlb_backend_ring_share_ratio), 0.001)' 1
  has_value 'count(tunlb_vip_ring_fingerprint)' 1 || fail 'no fingerprint'
  has_value 'count(ALERTS) or vector(0)' 0 || fail "alerts: $(query 'ALERTS')"
  kill "${DIRECTORS[0]}"
  wait_for 60 'the alert that the director is down' has_value 'count(ALERTS{alertname="TunlbDirectorDown"})' 1
  DIRECTORS=()
  start_again
}

start_again() {
  ip link del d0
  rm -rf /run/tunlb
  start_director
}

query() {
  curl --silent --fail --get --data-urlencode "query=$1" http://127.0.0.1:9090/api/v1/query
}

has_value() {
  [[ $(query "$1" | jq -r '.data.result[0].value[1] // empty') == "$2" ]]
}

check_live_page() {
  python3 packaging/page/check.py --live http://127.0.0.1:9810/ web 10.99.0.11 10.99.0.12 '66.7 %' ready
}

main
