#!/bin/sh
# Every test that is not `long`: suite.sh PYTHON LOG
# Those in namespaces run two at a time, for they mostly wait. What only computes (simulations,
# C, units) runs beside them at a low priority: it takes what they leave, and none of their time;
# what it says comes afterwards. Those that measure a time or a rate come last, each alone.
set -u
python=$1 log=$2
failed=0
nice -n 10 "$python" -m pytest -n 2 --dist loadgroup -m "not long" \
	tests/sim tests/fuzz tests/csrc tests/unit >"$log" 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null; exit 130' INT TERM
"$python" -m pytest -n 2 --dist loadgroup -m "not long and not alone" \
	tests/interop tests/netns || failed=1
wait "$beside" || failed=1
cat "$log"
"$python" -m pytest -m "not long and alone" tests/netns || failed=1
exit "$failed"
