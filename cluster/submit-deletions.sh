#!/usr/bin/env bash
# Submit the deletions that are due to a Ray cluster, once; wait until they are done; end with their own exit code. For a
# timer: a tick too many, or too late, does no harm.
#
#   cluster/submit-deletions.sh JOB.yaml
#
# The submission id names what is due and the version that serves (`tru delete submission-id`), so a second tick gives
# the same id, which Ray refuses; this script then waits for the run that is there. Nothing due, nothing submitted. A run
# that ended badly before it changed anything leaves its id taken: it is freed and submitted again. Ray forgets its ids
# with its head; what really keeps a batch from being done twice is the lease of the data set and the numbered logs in
# storage.
#
# The job file names its storage and its keys by absolute paths or URLs, as the machines of the cluster see them, and
# this machine sees the same storage. The folder of the job file is uploaded as the job's working folder: keep nothing
# else in it, and no keys.
#
# Environment: RAY_ADDRESS (http://host:port of the head's job API), RAY_AUTH_MODE and a token as for every client
# (RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN), TRU and RAY (commands, default tru and ray), TRU_ENTRYPOINT (default python -m
# workflows), TRU_POLL_SECONDS (between two looks, default 10), TRU_WAIT_SECONDS (how long to wait, default 14400).
# Exit code: 0 done, or nothing due; that of the run, as `tru result` says it: Ray itself reports every failure as 1; 7
# the run was stopped or lost, or still runs after TRU_WAIT_SECONDS; else that of the command that failed here.
set -euo pipefail

job=${1:?usage: submit-deletions.sh JOB.yaml}
folder=$(cd "$(dirname "$job")" && pwd)
name=$(basename "$job")
tru=${TRU:-tru}
ray=${RAY:-ray}
read -ra entrypoint <<<"${TRU_ENTRYPOINT:-python -m workflows}"

id=$("$tru" delete submission-id --job "$folder/$name")
if [ -z "$id" ]; then
    echo "nothing is due"
    exit 0
fi

submit() {
    output=$("$ray" job submit --no-wait --submission-id "$id" --working-dir "$folder" -- \
        "${entrypoint[@]}" delete run "$name" --run-id "$id" --json 2>&1)
}

# What Ray says of the run: succeeded, failed, stopped, running, or unknown where it does not answer.
look() {
    answer=$("$ray" job status "$id" 2>&1) || { state=unknown; return; }
    case $answer in
        *"Job '$id' failed"*) state=failed ;;
        *"Job '$id' succeeded"*) state=succeeded ;;
        *"Job '$id' was stopped"*) state=stopped ;;
        *) state=running ;;
    esac
}

give_up() {
    printf '%s\n' "$output" >&2
    exit "$1"
}

code=0
submit || code=$?
if [ "$code" -eq 0 ]; then
    echo "submitted $id"
elif grep -q "already exists" <<<"$output"; then
    look
    if [ "$state" = failed ] || [ "$state" = stopped ]; then
        "$ray" job delete "$id" >/dev/null
        code=0
        submit || code=$?
        if [ "$code" -ne 0 ]; then give_up "$code"; fi
        echo "submitted $id again: its run before ended badly ($state)"
    else
        echo "already submitted: $id"
    fi
else
    give_up "$code"
fi

printf 'how it ends: %q result %q --job %q\n' "$tru" "$id" "$folder/$name"
deadline=$((SECONDS + ${TRU_WAIT_SECONDS:-14400}))
look
while [ "$state" = running ] || [ "$state" = unknown ]; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "$id has not ended after ${TRU_WAIT_SECONDS:-14400} s (Ray: $state). It goes on; nothing was stopped." >&2
        exit 7
    fi
    sleep "${TRU_POLL_SECONDS:-10}"
    look
done

code=0
"$tru" result "$id" --job "$folder/$name" || code=$?
if [ "$state" != succeeded ]; then
    # The outcome in storage may be that of an earlier try: a run that failed before it could write one says its code to
    # Ray alone. A run that a signal ended has none.
    printf '%s\n' "$answer" >&2
    own=$(sed -n 's/.*entrypoint command failed with exit code \([0-9][0-9]*\).*/\1/p' <<<"$answer" | head -n 1)
    if [ -n "$own" ]; then code=$own; elif [ "$state" = stopped ] || [ "$code" -eq 0 ]; then code=7; fi
fi
exit "$code"
