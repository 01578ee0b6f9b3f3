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

run=${WHALESCALE_RUNTIME_DIR:-/run/whalescale}
# Where systemctl puts the links of enabled units.
etc_systemd=${ETC_SYSTEMD:-/etc/systemd/system}

# Ends the agents that run from $opt: those of `ws up`, which no unit knows.
end_agents() {
	for lock in "$run"/*.lock; do
		[ -e "$lock" ] || continue
		name=$(basename "$lock" .lock)
		pid=$(head -n 1 "$lock")
		case $pid in '' | *[!0-9]*) continue ;; esac
		tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | head -n 1 | grep -qF "$opt/venv/" || continue
		"$opt/venv/bin/ws" down -i "$name" || kill "$pid" || :
	done
}

# Disables what is enabled; also where no systemd runs, as in an image that is being made.
disable_units() {
	for link in "$etc_systemd"/*.wants/ws@*.service; do
		[ -L "$link" ] || continue
		[ "$(readlink -m "$link")" = "$(readlink -m "$unitdir/ws@.service")" ] || continue
		if [ -d /run/systemd/system ]; then systemctl disable --now "$(basename "$link")" || :; fi
		rm -f "$link"
		rmdir "$(dirname "$link")" 2>/dev/null || :
	done
}

# Folders that are empty now, up to $2.
remove_empty() {
	folder=$1
	while [ "$folder" != "$2" ] && [ "$folder" != / ] && rmdir "$folder" 2>/dev/null; do
		folder=$(dirname "$folder")
	done
}

if [ "$what" = uninstall ]; then
	if [ -d /run/systemd/system ]; then systemctl stop 'ws@*.service' || :; fi
	end_agents
	# A kill switch outlives its agent, and nobody would be left to take it away.
	if [ -x "$opt/venv/bin/python" ]; then
		"$opt/venv/bin/python" -c 'from whalescale.nft import end_exits; end_exits()' || :
	fi
	disable_units
	rm -f "$prefix/bin/ws" "$unitdir/ws@.service" "$bash_file" "$zsh_file" "$fish_file"
	for page in docs/man/*.[1-8]; do
		[ -e "$page" ] || continue
		rm -f "$prefix/share/man/man${page##*.}/$(basename "$page")"
		remove_empty "$prefix/share/man/man${page##*.}" "$prefix"
	done
	for file in "$bash_file" "$zsh_file" "$fish_file"; do
		remove_empty "$(dirname "$file")" "$prefix"
	done
	# Only what make install made: a folder with its mark.
	if [ -e "$opt/.whalescale" ]; then rm -rf "$opt"; fi
	# Logs, unless an agent from elsewhere still runs.
	if ! ls "$run"/*.sock >/dev/null 2>&1; then
		rm -f "$run"/*.log "$run"/*.log.old "$run"/*.lock
		rmdir "$run" 2>/dev/null || :
	fi
	rmdir /var/lib/whalescale /etc/whalescale 2>/dev/null || :
	reload_systemd
	if [ -d /etc/whalescale ]; then
		echo "uninstalled; configurations and keys in /etc/whalescale stay (rm -r takes them away)"
	else
		echo "uninstalled"
	fi
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
