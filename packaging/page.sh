#!/usr/bin/env bash
# The web page in a real browser: packaging/page/check.py, in a network namespace of its own.
#
#   packaging/page.sh [FOLDER]      pictures go to FOLDER: wide.png, dark.png, phone.png, gone.png
#
# Needs chromium and python3, and root for the namespace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck disable=SC2016 # the inner shell expands it
exec unshare --net -- sh -euc 'ip link set lo up; exec python3 packaging/page/check.py "$@"' page "$@"
