# shellcheck shell=bash
# The machine: cache folder, lock, packages, disk space, unprivileged user.

PACKAGES="bison flex gcc make libc6-dev libreadline-dev zlib1g-dev libssl-dev
libicu-dev pkg-config liblz4-dev libzstd-dev uuid-dev libxml2-dev patch perl
bzip2 xz-utils zstd util-linux"

is_root() { [ "$(id -u)" -eq 0 ]; }

# PostgreSQL runs as another user than root, to whom root's home is closed.
if [ -n "${OGEL_CACHE_DIR:-}" ]; then
	CACHE=$OGEL_CACHE_DIR
elif is_root; then
	CACHE=/var/cache/ogelbase
else
	CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ogelbase
fi
case $CACHE in
/*) ;;
*) CACHE=$PWD/$CACHE ;;
esac

prepare_cache() {
	mkdir -p "$CACHE/pg" "$CACHE/src" "$CACHE/build" "$CACHE/log" ||
		die "cannot write to the cache folder $CACHE" "set OGEL_CACHE_DIR to a folder you can write to"
}

# One build at a time; the lock goes when this process ends.
take_lock() {
	prepare_cache
	exec 9>"$CACHE/lock"
	flock -n 9 && return
	say "another build is using $CACHE; waiting for it"
	flock 9
}

missing_packages() {
	local p
	for p in $PACKAGES; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || printf '%s ' "$p"
	done
}

ensure_packages() {
	local tool missing sudo=
	if ! command -v dpkg-query >/dev/null; then
		for tool in bison flex cc make pkg-config patch perl bzip2 zstd flock setpriv; do
			command -v "$tool" >/dev/null ||
				die "the program $tool is missing" "install it, and the development files of readline, zlib, openssl, icu, lz4, zstd, uuid and libxml2"
		done
		return
	fi
	missing=$(missing_packages)
	[ -n "$missing" ] || return 0
	if ! is_root; then
		sudo=sudo
		command -v sudo >/dev/null ||
			die "system packages are missing: $missing" "as root: apt-get install -y --no-install-recommends $missing"
	fi
	say "installing system packages: $missing"
	# shellcheck disable=SC2086
	$sudo apt-get update -q >"$CACHE/log/packages.log" 2>&1 || true
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends $missing \
		>>"$CACHE/log/packages.log" 2>&1 ||
		die "cannot install: $missing" "check the network and $CACHE/log/packages.log"
}

# ensure_disk_mb NEEDED
ensure_disk_mb() {
	local free_mb
	free_mb=$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')
	[ "$free_mb" -ge "$1" ] ||
		die "a build needs $1 MB in $CACHE, only $free_mb MB are free" "free some space or set OGEL_CACHE_DIR to another disk"
}

# The user that runs PostgreSQL; PostgreSQL refuses to run as root.
run_user() {
	if is_root; then echo "${OGEL_RUN_USER:-ogel}"; else id -un; fi
}

ensure_run_user() {
	local user
	user=$(run_user)
	id "$user" >/dev/null 2>&1 && return
	[ -z "${OGEL_RUN_USER:-}" ] || die "OGEL_RUN_USER names the unknown user $user" "create it or name another"
	say "creating the system user $user, which runs PostgreSQL"
	useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user" ||
		die "cannot create the user $user" "create it, or set OGEL_RUN_USER to an existing unprivileged user"
}

# as_run_user COMMAND...
as_run_user() {
	if is_root; then
		setpriv --reuid "$(run_user)" --regid "$(id -g "$(run_user)")" --clear-groups "$@"
	else
		"$@"
	fi
}
