# shellcheck shell=bash
# PostgreSQL's own regression suite on the patched build, with no extension of
# ours loaded, and stock pg_waldump over all the WAL that it wrote.

selfcheck() {
	local patched stock work
	build_variant patched
	build_variant stock
	ensure_run_user
	patched=$(built_prefix patched)
	stock=$(built_prefix stock)
	work=$(mktemp -d "$CACHE/build/selfcheck.XXXXXX")
	WORK_DIRS+=("$work")
	chmod 755 "$work"
	if is_root; then chown "$(run_user)" "$work"; fi
	cd "$work"
	: >"$CACHE/log/selfcheck.log"
	progress_begin selfcheck 260 "$CACHE/log/selfcheck.log"
	step_as_run_user "the regression suite" bash -c \
		"$(declare -f regression_run); regression_run '$patched' '$work'"
	step_as_run_user "stock pg_waldump" bash -c \
		"$(declare -f waldump_run); waldump_run '$stock' '$work'"
	cd /
	grep -E '^(# All|1\.\.)' "$CACHE/log/selfcheck.log" >&2 || true
	progress_end
}

regression_run() {
	local prefix=$1 work=$2 data=$2/data suite=$1/suites/regress status=0
	set -e
	"$prefix/bin/initdb" -D "$data" --username=postgres --auth=trust --no-sync --no-locale >/dev/null
	cat >>"$data/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$work'
		fsync = off
		wal_keep_size = '20GB'
		log_min_messages = fatal
	CONF
	"$prefix/bin/pg_ctl" -D "$data" -w -l "$work/server.log" start
	mkdir "$work/out"
	"$suite/pg_regress" --bindir="$prefix/bin" --inputdir="$suite" --outputdir="$work/out" \
		--dlpath="$suite" --host="$work" --port=5432 --user=postgres --max-concurrent-tests=20 \
		--schedule="$suite/parallel_schedule" || status=$?
	[ "$status" -eq 0 ] || head -n 400 "$work/out/regression.diffs"
	"$prefix/bin/psql" -h "$work" -U postgres -Atqc 'SELECT pg_current_wal_flush_lsn()' postgres >"$work/end" || status=1
	"$prefix/bin/pg_ctl" -D "$data" -w -m fast stop
	return "$status"
}

waldump_run() {
	local stock=$1 work=$2 first
	set -e
	first=$(find "$work/data/pg_wal" -type f -regextype egrep -regex '.*/[0-9A-F]{24}' -printf '%f\n' | sort | head -n 1)
	# The segment's name ends in the high half of its LSN and its number there.
	"$stock/bin/pg_waldump" --quiet -p "$work/data/pg_wal" \
		-s "${first:8:8}/${first:22:2}000000" -e "$(cat "$work/end")"
	echo "pg_waldump of the stock build read everything up to $(cat "$work/end")"
}
