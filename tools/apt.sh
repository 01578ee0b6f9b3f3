#!/bin/sh
# Makes sure that the Debian packages of the named groups are there: apt.sh GROUP...
# Installs what is missing when it may (root, apt-get), otherwise says what to install.
set -eu
list=$(dirname "$0")/apt-packages
if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "not a Debian system: install what these Debian packages hold yourself, if it is missing:" >&2
	for group in "$@"; do awk -v g="$group" '$1 == g { printf " %s", $2 }' "$list" >&2; done
	echo >&2
	exit 0
fi
arch=$(dpkg --print-architecture)
missing=
for group in "$@"; do
	# Package names are words.
	# shellcheck disable=SC2013
	for package in $(awk -v g="$group" -v a="$arch" '$1 == g && ($3 == "" || $3 == a) { print $2 }' "$list"); do
		state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
		[ "$state" = installed ] || missing="$missing $package"
	done
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "missing system packages; as root: apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing:$missing"
apt-get -q update
# The names are a list of words on purpose.
# shellcheck disable=SC2086
apt-get -q -y -o Dpkg::Use-Pty=0 -o APT::Keep-Downloaded-Packages=false install --no-install-recommends $missing
