#!/bin/sh
# Every test that is not `long`: suite.sh PYTHON LOG [COMMAND...]
# Those in namespaces run two at a time, for they mostly wait. What only computes (simulations,
# C, units) runs beside them at a low priority: it takes what they leave, and none of their time;
# so does COMMAND, at a lower one. What they say comes afterwards. Those that measure a time or a
# rate come last, each alone.
set -u
python=$1 log=$2
shift 2
failed=0
nice -n 10 "$python" -m pytest -n 2 --dist loadgroup -m "not long" \
	tests/sim tests/fuzz tests/csrc tests/unit >"$log" 2>&1 &
beside=$!
[ $# -gt 0 ] || set -- true
nice -n 19 "$@" >"$log.command" 2>&1 &
command=$!
trap 'kill "$beside" "$command" 2>/dev/null; exit 130' INT TERM
"$python" -m pytest -n 2 --dist loadgroup -m "not long and not alone" \
	tests/interop tests/netns || failed=1
wait "$beside" || failed=1
cat "$log"
wait "$command" || failed=1
cat "$log.command"
"$python" -m pytest -m "not long and alone" tests/netns || failed=1
exit "$failed"
