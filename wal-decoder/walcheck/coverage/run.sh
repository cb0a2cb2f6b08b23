#!/bin/sh
# run.sh PREFIX DIR [SCRIPT...]: makes a consistency-checked cluster with PREFIX/bin in DIR (which must not exist), runs the SQL scripts (all
# of them by default) and stops it. Afterwards DIR/wal holds the WAL of the scripts alone; `walcheck DIR/wal` checks it. Not as root.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=$1/bin dir=$2
shift 2
[ $# -gt 0 ] || set -- "$here"/*.sql
"$bin/initdb" -D "$dir" -U postgres -A trust --no-sync --wal-segsize=1 >/dev/null
cat >>"$dir/postgresql.conf" <<EOF
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
full_page_writes = off
wal_consistency_checking = all
checkpoint_timeout = 1h
max_wal_size = 20GB
wal_keep_size = 20GB
max_prepared_transactions = 4
track_commit_timestamp = on
autovacuum = off
EOF
"$bin/pg_ctl" -D "$dir" -w -l "$dir/log" start >/dev/null
trap '"$bin/pg_ctl" -D "$dir" -m fast stop >/dev/null' EXIT
sql() { "$bin/psql" -X -q -h "$dir" -U postgres -v ON_ERROR_STOP=1 "$@"; }
first=$(sql -Atc 'SELECT pg_walfile_name(pg_switch_wal())')
for script; do sql -f "$script" >/dev/null; done
sql -c 'SELECT pg_switch_wal()' >/dev/null
mkdir "$dir/wal"
for file in "$dir"/pg_wal/0*; do
    name=${file##*/}
    if [ "$name" \> "$first" ]; then cp "$file" "$dir/wal/"; fi
done
