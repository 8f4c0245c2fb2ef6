#!/usr/bin/env bash
# Submit the deletions that are due to a Ray cluster, once. For a timer: a tick too many, or too late, does no harm.
#
#   cluster/submit-deletions.sh JOB.yaml
#
# The submission id names what is due and the version that serves (`tru delete submission-id`), so a second tick gives
# the same id, which Ray refuses, and this script takes that for "already submitted". Nothing due, nothing submitted.
# Ray forgets its ids with its head; what really keeps a batch from being done twice is the lease of the data set and the
# numbered logs in storage.
#
# The job file names its storage and its keys by absolute paths or URLs, as the machines of the cluster see them. The
# folder of the job file is uploaded as the job's working folder: keep nothing else in it, and no keys.
#
# Environment: RAY_ADDRESS (http://host:port of the head's job API), RAY_AUTH_MODE and a token as for every client,
# TRU and RAY (commands, default tru and ray), TRU_ENTRYPOINT (default python -m workflows).
# Exit code: 0 submitted, already submitted, or nothing due; else that of the command that failed.
set -euo pipefail

job=${1:?usage: submit-deletions.sh JOB.yaml}
folder=$(cd "$(dirname "$job")" && pwd)
name=$(basename "$job")
id=$("${TRU:-tru}" delete submission-id --job "$folder/$name")
if [ -z "$id" ]; then
    echo "nothing is due"
    exit 0
fi
read -ra entrypoint <<<"${TRU_ENTRYPOINT:-python -m workflows}"
if output=$("${RAY:-ray}" job submit --no-wait --submission-id "$id" --working-dir "$folder" -- \
    "${entrypoint[@]}" delete run "$name" --json 2>&1); then
    echo "submitted $id; how it ends: tru result $id --storage URL"
elif grep -q "already exists" <<<"$output"; then
    echo "already submitted: $id"
else
    code=$?
    printf '%s\n' "$output" >&2
    exit "$code"
fi
