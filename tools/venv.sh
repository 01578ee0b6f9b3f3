#!/bin/sh
# The Python environment with what Whalescale needs to run: venv.sh PYTHON FOLDER [PIP-ARGUMENTS]
set -eu
python=$1 venv=$2
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	echo "$python is not Python 3.11 or newer; choose one: make PYTHON=/path/to/python3" >&2
	exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# The very files whose hashes the lock has, pip and setuptools (for the build) among them. Wheels
# alone: building another package would run what it fetches, unseen, as root with `make install`.
"$venv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
