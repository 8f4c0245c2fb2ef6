#!/usr/bin/env bash
# Start a Ray head on this machine that takes jobs only from who holds its token. Runs in the foreground; stop it with
# Ctrl-C or `kill`, which ends all its processes within seconds. Never `ray stop`: that ends every Ray on the machine.
#
# The dashboard and its job API listen on loopback. The other services of Ray (GCS, raylet, agents) listen on every
# interface whatever --node-ip-address says; the token guards them, and it travels in clear text. So let a firewall
# close this machine's ports to networks that you do not trust, or set up RAY_USE_TLS.
#
# Settings, all optional, by environment:
#   TRU_HEAD_FOLDER      token and, below it, nothing else         (default ~/.tru/head)
#   TRU_TEMP             Ray's temporary files; keep it short: Unix sockets lie in it  (default /tmp/tru-ray)
#   TRU_CPUS             cores that jobs may use                   (default: all)
#   TRU_STORE_BYTES      shared memory for objects, at least 75 MiB (default 200000000)
#   TRU_PORT_GCS 26399, TRU_PORT_DASHBOARD 28265, TRU_PORT_AGENT 28266, TRU_PORT_CLIENT 21001,
#   TRU_PORT_WORKERS_FROM 22000, TRU_PORT_WORKERS_TO 22999
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ray=$repository/.venv/bin/ray
if [ ! -x "$ray" ]; then
    ray=$(command -v ray) || { echo "No ray found: run 'make setup' first." >&2; exit 2; }
fi

folder=${TRU_HEAD_FOLDER:-$HOME/.tru/head}
temp=${TRU_TEMP:-/tmp/tru-ray}
dashboard=127.0.0.1:${TRU_PORT_DASHBOARD:-28265}
token=$folder/token

# A socket below temp has about 70 more characters, and the system allows 107.
if [ "${#temp}" -gt 35 ]; then
    echo "TRU_TEMP is too long for Unix sockets (${#temp} characters, at most 35): $temp" >&2
    exit 2
fi

mkdir -p -m 700 "$folder"
if [ ! -e "$token" ]; then
    # Hard-linked into place complete, so that two starts at once agree on one token.
    draft=$(umask 077 && mktemp "$folder/.token.XXXXXX")
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$draft"
    ln "$draft" "$token" 2>/dev/null || true
    rm -f "$draft"
fi
mode=$(stat -c %a "$token" 2>/dev/null || stat -f %Lp "$token")
if [ "$mode" != 600 ]; then
    echo "$token may be read by others (mode $mode, expected 600). Delete it and start again, or: chmod 600 $token" >&2
    exit 2
fi

# A job's `python` is the first one on the head's path: it must be the one that has this project.
PATH=$(dirname "$ray"):$PATH
export PATH

# Set here and in every client: left unset, what Ray does depends on what lies in the home folder.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token

# There is no other machine to move anything to: without this, `kill` waits 30 s for an actor that Ray Train leaves.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-0}

cat <<TEXT
Ray head on http://$dashboard (token: $token). In another shell, from your project's folder:

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$(printf %q "$token") RAY_ADDRESS=http://$dashboard
  mkdir -p store jobs
  $(printf %q "$ray") job submit --working-dir jobs --submission-id my-first-job -- python -m workflows doctor "\$PWD/store"

A job runs in a copy of its --working-dir, which is deleted afterwards: keep job files alone in there, and name storage
and keys in them by absolute paths or s3://.

A --submission-id is taken once only: the same id again is refused, which makes a repeated batch harmless.

TEXT

cpus=()
if [ -n "${TRU_CPUS:-}" ]; then cpus=("--num-cpus=$TRU_CPUS"); fi
exec "$ray" start --head --block --disable-usage-stats \
    --port="${TRU_PORT_GCS:-26399}" \
    --dashboard-host=127.0.0.1 --dashboard-port="${dashboard##*:}" \
    --dashboard-agent-listen-port="${TRU_PORT_AGENT:-28266}" \
    --ray-client-server-port="${TRU_PORT_CLIENT:-21001}" \
    --min-worker-port="${TRU_PORT_WORKERS_FROM:-22000}" --max-worker-port="${TRU_PORT_WORKERS_TO:-22999}" \
    --object-store-memory="${TRU_STORE_BYTES:-200000000}" \
    --temp-dir="$temp" "${cpus[@]}"
