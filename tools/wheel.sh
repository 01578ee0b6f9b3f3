#!/bin/sh
# `make wheel`: dist/whalescale-VERSION-....whl, checked and completed by auditwheel: wheel.sh VENV
set -eu
venv=$1
work=build/wheel
rm -rf "$work"
mkdir -p "$work" dist
# The same bytes from each build of a commit: its time, and no folder of the build.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -c 'safe.directory=*' log -1 --format=%ct)}
WS_CFLAGS="-Werror -g0 -ffile-prefix-map=$PWD=."
WS_LDFLAGS=-Wl,--build-id=none
export SOURCE_DATE_EPOCH WS_CFLAGS WS_LDFLAGS
# Another checkout's files must not come along.
rm -rf build/lib build/bdist.*
"$venv/bin/python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$work" .
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/auditwheel" repair --strip --exclude 'libcrypto.so.*' -w "$work/repaired" "$work"/*.whl
# dist/ may have others, of another Python or version.
"$venv/bin/auditwheel" show "$work"/repaired/*.whl
mv "$work"/repaired/*.whl dist/
