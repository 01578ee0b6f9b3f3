#!/bin/sh
# `make install` and `make uninstall`: install.sh install|uninstall PYTHON OPT PREFIX UNITDIR
set -eu
what=$1 python=$2 opt=$3 prefix=$4 unitdir=$5
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
	echo "make $what writes to $opt and $prefix: run it as root (sudo make $what)" >&2
	exit 4
fi
bash_file=$prefix/share/bash-completion/completions/ws
zsh_file=$prefix/share/zsh/site-functions/_ws
fish_file=$prefix/share/fish/vendor_completions.d/ws.fish

reload_systemd() {
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

if [ "$what" = uninstall ]; then
	if [ -d /run/systemd/system ]; then systemctl stop 'ws@*.service' || :; fi
	rm -f "$prefix/bin/ws" "$unitdir/ws@.service" "$bash_file" "$zsh_file" "$fish_file"
	for page in docs/man/*.[1-8]; do
		[ -e "$page" ] || continue
		rm -f "$prefix/share/man/man${page##*.}/$(basename "$page")"
	done
	# Only what make install made: a folder with its mark.
	if [ -e "$opt/.whalescale" ]; then rm -rf "$opt"; fi
	reload_systemd
	echo "uninstalled; configurations in /etc/whalescale stay"
	exit 0
fi

if [ -e "$opt" ] && [ ! -e "$opt/.whalescale" ]; then
	echo "$opt is there and was not made by make install; choose another: make install OPT=/path" >&2
	exit 1
fi
mkdir -p "$opt"
touch "$opt/.whalescale"
tools/step.sh "Python environment in $opt" build/log/install-venv.log \
	tools/venv.sh "$python" "$opt/venv"
tools/step.sh "whalescale" build/log/install.log \
	"$opt/venv/bin/python" -m pip install --quiet --no-build-isolation --no-deps --force-reinstall .
install -d "$prefix/bin" "$unitdir"
ln -sf "$opt/venv/bin/ws" "$prefix/bin/ws"
sed "s,@WS@,$prefix/bin/ws,g" tools/systemd/ws@.service >"$unitdir/ws@.service"
chmod 0644 "$unitdir/ws@.service"
install -d -m 0755 /etc/whalescale
for page in docs/man/*.[1-8]; do
	[ -e "$page" ] || continue
	install -D -m 0644 "$page" "$prefix/share/man/man${page##*.}/$(basename "$page")"
done
install -d "$(dirname "$bash_file")" "$(dirname "$zsh_file")" "$(dirname "$fish_file")"
"$opt/venv/bin/ws" --show-completion bash >"$bash_file"
"$opt/venv/bin/ws" --show-completion zsh >"$zsh_file"
"$opt/venv/bin/ws" --show-completion fish >"$fish_file"
reload_systemd
echo "installed: $("$prefix/bin/ws" version 2>/dev/null | head -n 1)"
echo "next: ws init, then systemctl enable --now ws@ws0"
