# shellcheck shell=bash
# The template cluster: a fresh, cleanly stopped data directory as an archive,
# from which a tenant's first timeline is imported.

# Raise it when the steps below change what the archive holds.
TEMPLATE_RECIPE=1
WAL_SEGMENT_MB=16

template_path() {
	local key
	read_source || die "PostgreSQL is not built" "pgxn/pg build all"
	key=$(build_key patched) || exit 1
	echo "$CACHE/pg/template-17-$key-$TEMPLATE_RECIPE.tar.zst"
}

make_template() {
	local file work log prefix
	build_variant patched
	file=$(template_path) || exit 1
	[ ! -f "$file" ] || return 0
	take_lock
	[ ! -f "$file" ] || return 0
	ensure_run_user
	prefix=$(built_prefix patched)
	rm -rf "$CACHE/build/template".*
	work=$(mktemp -d "$CACHE/build/template.XXXXXX")
	WORK_DIRS+=("$work")
	if is_root; then chown "$(run_user)" "$work"; fi
	log=$CACHE/log/template.log
	: >"$log"
	progress_begin "template cluster" 60 "$log"
	cd "$work"
	init_cluster "$prefix" "$work/data"
	check_stopped "$prefix" "$work/data"
	keep_last_segment "$prefix" "$work/data"
	pack_cluster "$work/data" "$work/template.tar.zst"
	mv "$work/template.tar.zst" "$file"
	cd /
	rm -rf "$work"
	progress_end
}

# run_as_user PHASE COMMAND...
step_as_run_user() {
	local phase=$1
	shift
	if is_root; then
		step "$phase" setpriv --reuid "$(run_user)" --regid "$(id -g "$(run_user)")" --clear-groups "$@"
	else
		step "$phase" "$@"
	fi
}

# single_user PREFIX DATA DATABASE STATEMENT
single_user() {
	step_as_run_user "preparing $3" sh -c \
		'echo "$4" | "$1/bin/postgres" --single -j -D "$2" "$3"' sh "$1" "$2" "$3" "$4"
}

init_cluster() {
	local prefix=$1 data=$2
	step_as_run_user initdb "$prefix/bin/initdb" -D "$data" --username=postgres --auth=trust \
		--encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C.UTF-8 \
		--no-sync --wal-segsize="$WAL_SEGMENT_MB"
	single_user "$prefix" "$data" template1 'VACUUM (FREEZE);'
	single_user "$prefix" "$data" postgres 'VACUUM (FREEZE);'
	# The shutdown checkpoint then begins a segment: a timeline starts there,
	# and nothing before it is ever asked for.
	single_user "$prefix" "$data" postgres 'SELECT pg_switch_wal();'
}

control_value() { LC_ALL=C "$1/bin/pg_controldata" "$2" | sed -n "s/^$3: *//p"; }

check_stopped() {
	local state sums
	! grep -E '(ERROR|FATAL|PANIC):' "$CACHE/log/template.log" >&2 ||
		die "the template cluster could not be prepared" "see $CACHE/log/template.log"
	state=$(control_value "$1" "$2" "Database cluster state")
	sums=$(control_value "$1" "$2" "Data page checksum version")
	[ "$state" = "shut down" ] || die "the template cluster is '$state', not shut down" "see $CACHE/log/template.log"
	[ "$sums" = 0 ] || die "the template cluster has data checksums" "see $CACHE/log/template.log"
}

# Of pg_wal, only the segment that holds the shutdown checkpoint is needed.
keep_last_segment() {
	local segment
	segment=$(control_value "$1" "$2" "Latest checkpoint's REDO WAL file")
	[ -f "$2/pg_wal/$segment" ] || die "the template's WAL segment $segment is missing" "see $CACHE/log/template.log"
	find "$2/pg_wal" -maxdepth 1 -type f ! -name "$segment" -delete
	find "$2/pg_wal/archive_status" "$2/pg_wal/summaries" -type f -delete
	rm -f "$2/postmaster.opts" "$2/postmaster.pid"
	find "$2" -name pg_internal.init -delete
}

pack_cluster() {
	local data=$1 file=$2
	step packing bash -o pipefail -c \
		'cd "$1" && ls -A | LC_ALL=C sort | tar --format=ustar --owner=0 --group=0 --numeric-owner -cf - -T - |
		 zstd -q -9 -o "$2"' bash "$data" "$file"
}
