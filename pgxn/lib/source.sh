# shellcheck shell=bash
# PostgreSQL's source: found, verified and kept in the cache.
#
# src/current holds one line: version, SHA-256, file name. It is written last,
# by rename, so that what it names is complete and verified.

# SHA-256 of release tarballs, for origins that bring no signed checksum.
known_sha256() {
	case $1 in
	postgresql-17.11.tar.bz2) echo dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979 ;;
	esac
}
FALLBACK_VERSION=17.11

# Sets SOURCE_VERSION, SOURCE_SHA256 and SOURCE_FILE from the cache.
read_source() {
	[ -s "$CACHE/src/current" ] || return 1
	read -r SOURCE_VERSION SOURCE_SHA256 SOURCE_FILE <"$CACHE/src/current"
	SOURCE_FILE=$CACHE/src/$SOURCE_FILE
	[ -s "$SOURCE_FILE" ]
}

sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

# fetch_source [--update]: use the cache, or OGEL_PG_TARBALL, or the network.
fetch_source() {
	local dir
	prepare_cache
	if [ -n "${OGEL_PG_TARBALL:-}" ]; then
		take_tarball
		return
	fi
	if [ "${1:-}" != --update ] && read_source; then return; fi
	dir=$(mktemp -d "$CACHE/build/fetch.XXXXXX")
	WORK_DIRS+=("$dir")
	fetch_from_distribution "$dir" || fetch_from_upstream "$dir"
	read_source
	say "source: PostgreSQL $SOURCE_VERSION ($SOURCE_FILE)"
}

# keep_source FILE SHA256: verify, look at the version, move into the cache.
keep_source() {
	local file=$1 want=$2 got version name
	got=$(sha256_of "$file")
	[ "$got" = "$want" ] ||
		die "$(basename "$file") has SHA-256 $got, expected $want" "delete it and fetch again; do not build from it"
	version=$(tarball_version "$file") || exit 1
	name=postgresql-$version-${got:0:12}.tar.${file##*.}
	cp "$file" "$CACHE/src/$name.new"
	mv "$CACHE/src/$name.new" "$CACHE/src/$name"
	echo "$version $got $name" >"$CACHE/src/current.new"
	mv "$CACHE/src/current.new" "$CACHE/src/current"
}

tarball_version() {
	local first
	first=$(tar -tf "$1" 2>/dev/null | head -n 1) || true
	first=${first#postgresql-}
	first=${first%%/*}
	[[ $first =~ ^17\.[0-9]+$ ]] ||
		die "$1 is not a PostgreSQL 17 source tarball" "give a postgresql-17.N.tar.bz2 or .tar.gz"
	echo "$first"
}

take_tarball() {
	local sha want
	[ -r "$OGEL_PG_TARBALL" ] || die "OGEL_PG_TARBALL names $OGEL_PG_TARBALL, which cannot be read"
	sha=$(sha256_of "$OGEL_PG_TARBALL")
	if read_source && [ "$SOURCE_SHA256" = "$sha" ]; then return; fi
	want=${OGEL_PG_SHA256:-$(known_sha256 "postgresql-$(tarball_version "$OGEL_PG_TARBALL").tar.bz2")}
	[ -n "$want" ] ||
		die "no checksum is known for $OGEL_PG_TARBALL" "compare its SHA-256 ($sha) with the release's and pass it as OGEL_PG_SHA256"
	keep_source "$OGEL_PG_TARBALL" "$want"
	read_source
}

# The URIs of the machine's own apt sources for its installed suite, in both
# file formats.
apt_uris() {
	local codename=$1
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
		awk -v suite="$codename" '$1 == "deb" { sub(/\[[^]]*\] */, ""); if ($3 == suite) print $2 }'
	cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
		awk -v suite="$codename" 'BEGIN { RS = ""; FS = "\n" }
			{ uris = suites = ""
			  for (i = 1; i <= NF; i++) {
				if ($i ~ /^URIs:/) uris = substr($i, 6)
				if ($i ~ /^Suites:/) suites = substr($i, 8) " " }
			  if (index(suites, " " suite " ")) { split(uris, u, " "); print u[1] } }'
}

# Suites of this distribution that may carry major version 17, nearest first.
candidate_suites() {
	local id=$1 codename=$2
	case $id in
	debian) echo "$codename trixie" ;;
	ubuntu) echo "$codename plucky questing" ;;
	esac
}

# The distribution's source package, without touching the system's apt state.
fetch_from_distribution() {
	local dir=$1 id codename uri suite
	command -v apt-get >/dev/null && [ -r /etc/os-release ] || return 1
	id=$(. /etc/os-release && echo "$ID")
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	uri=$(apt_uris "$codename" | head -n 1)
	[ -n "$uri" ] || return 1
	for suite in $(candidate_suites "$id" "$codename"); do
		fetch_source_package "$dir" "$uri" "$suite" && return
	done
	return 1
}

fetch_source_package() {
	local dir=$1 uri=$2 suite=$3 dsc file want options
	say "looking for PostgreSQL 17's source package in $suite"
	rm -rf "${dir:?}"/*
	mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
	echo "deb-src $uri $suite main" >"$dir/sources.list"
	options=(-q -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o "Dir::State::lists=$dir/state/lists" -o "Dir::Cache=$dir/cache"
		-o APT::Sandbox::User=root -o Debug::NoLocking=1 -o Acquire::Retries=2
		-o Acquire::Languages=none)
	(
		cd "$dir"
		apt-get "${options[@]}" update && apt-get "${options[@]}" --download-only source postgresql-17
	) >"$CACHE/log/fetch.log" 2>&1 9>&- || return 1
	dsc=$(ls "$dir"/postgresql-17_*.dsc)
	file=$(ls "$dir"/postgresql-17_*.orig.tar.*[2z])
	want=$(awk -v name="$(basename "$file")" '/^Checksums-Sha256:/ { on = 1; next } /^[^ ]/ { on = 0 }
		on && $3 == name { print $1 }' "$dsc")
	[ -n "$want" ] || die "the source package's description names no checksum of $(basename "$file")"
	keep_source "$file" "$want"
}

fetch_from_upstream() {
	local dir=$1 name=postgresql-$FALLBACK_VERSION.tar.bz2
	say "fetching $name from postgresql.org"
	curl -fsSL --retry 2 -o "$dir/$name" \
		"https://ftp.postgresql.org/pub/source/v$FALLBACK_VERSION/$name" 2>>"$CACHE/log/fetch.log" ||
		die "PostgreSQL's source could not be fetched (details: $CACHE/log/fetch.log)" \
			"check the network, or download a postgresql-17.N tarball and set OGEL_PG_TARBALL"
	keep_source "$dir/$name" "$(known_sha256 "$name")"
}
