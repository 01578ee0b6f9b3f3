#!/bin/sh
# The Python environment with what Whalescale needs to run: venv.sh PYTHON FOLDER [PIP-ARGUMENTS]
set -eu
python=$1 venv=$2
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	echo "$python is not Python 3.11 or newer; choose one: make PYTHON=/path/to/python3" >&2
	exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# --group needs pip 25.1; the build needs setuptools and cffi in the same environment.
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1' 'setuptools>=77'
"$venv/bin/python" - >"$venv/requirements.txt" <<'END'
import tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
END
"$venv/bin/python" -m pip install --quiet -r "$venv/requirements.txt"
