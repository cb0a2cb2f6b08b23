# shellcheck shell=bash
# Messages, progress and cleanup on interruption.

say() { printf 'pgxn: %s\n' "$*" >&2; }

# die CAUSE [NEXT STEP]
die() {
	printf 'pgxn: error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'pgxn: next step: %s\n' "$2" >&2
	exit 1
}

# Folders to remove and the process group to end when this script ends.
WORK_DIRS=()
STEP_PID=

on_exit() {
	local status=$?
	trap '' INT TERM HUP
	if [ -n "$STEP_PID" ]; then
		kill -TERM -- "-$STEP_PID" 2>/dev/null || true
		wait "$STEP_PID" 2>/dev/null || true
	fi
	[ ${#WORK_DIRS[@]} -eq 0 ] || rm -rf -- "${WORK_DIRS[@]}"
	exit "$status"
}
trap on_exit EXIT
trap 'say "interrupted; nothing half-built is left"; exit 130' INT
trap 'exit 143' TERM HUP

elapsed() { printf '%d:%02d' $(((SECONDS - PROGRESS_START) / 60)) $(((SECONDS - PROGRESS_START) % 60)); }

# progress_begin TITLE EXPECTED_LOG_LINES LOG
progress_begin() {
	PROGRESS_TITLE=$1 PROGRESS_LINES=$2 PROGRESS_LOG=$3
	PROGRESS_START=$SECONDS PROGRESS_SAID=-1000
}

# The share of the log's usual length that is written; never 100 before the end.
progress_show() {
	local phase=$1 percent
	percent=$(($(wc -l <"$PROGRESS_LOG") * 100 / PROGRESS_LINES))
	[ "$percent" -le 99 ] || percent=99
	if [ -t 2 ]; then
		printf '\r\033[Kpgxn: %s %2d%% %s %s' "$PROGRESS_TITLE" "$percent" "$(elapsed)" "$phase" >&2
	elif [ $((SECONDS - PROGRESS_SAID)) -ge 30 ]; then
		PROGRESS_SAID=$SECONDS
		say "$PROGRESS_TITLE $percent% $(elapsed) $phase"
	fi
}

progress_end() {
	[ ! -t 2 ] || printf '\r\033[K' >&2
	say "$PROGRESS_TITLE done in $(elapsed)"
}

# step PHASE COMMAND...: run a command into the log, showing progress. The
# command gets its own process group, so that an interrupt ends all of it, and
# dies with this script even when that is killed.
step() {
	local phase=$1 status=0
	shift
	setsid setpriv --pdeathsig TERM "$@" >>"$PROGRESS_LOG" 2>&1 </dev/null 9>&- &
	STEP_PID=$!
	while kill -0 "$STEP_PID" 2>/dev/null; do
		progress_show "$phase"
		sleep 0.5
	done
	wait "$STEP_PID" || status=$?
	STEP_PID=
	if [ "$status" -ne 0 ]; then
		[ ! -t 2 ] || printf '\n' >&2
		say "last lines of $PROGRESS_LOG:"
		tail -n 15 "$PROGRESS_LOG" >&2
		die "$PROGRESS_TITLE failed while $phase (exit $status)" "read the full log: $PROGRESS_LOG"
	fi
}
