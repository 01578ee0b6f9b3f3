#!/bin/sh
# One line for one long step: step.sh NAME LOGFILE COMMAND...
# The command's output goes to the log; when it fails, the log's end is shown.
set -eu
name=$1 log=$2
shift 2
mkdir -p "$(dirname "$log")"
start=$(date +%s)
printf '  %-44s' "$name"
"$@" >"$log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null || :; echo interrupted; exit 130' INT TERM
if [ -t 1 ]; then
	while kill -0 "$pid" 2>/dev/null; do
		printf '\r  %-44s%4ss' "$name" $(($(date +%s) - start))
		sleep 0.2
	done
	printf '\r  %-44s' "$name"
fi
status=0
wait "$pid" || status=$?
if [ "$status" = 0 ]; then
	printf 'ok %4ss\n' $(($(date +%s) - start))
	exit 0
fi
printf 'FAILED (exit %s), the end of %s:\n' "$status" "$log"
tail -n 40 "$log"
exit "$status"
