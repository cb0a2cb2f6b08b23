# shellcheck shell=bash
# Builds of PostgreSQL, one folder per key in the cache.
#
# pg/17-KEY-VARIANT is made in build/ and renamed into place as the last step:
# a folder of that name is always complete.

PG_CC=${CC:-gcc}
PG_CFLAGS="-O2 -g"
# Assertions stay off: both variants are what users run and what benchmarks compare.
CONFIGURE_FLAGS="--with-openssl --with-icu --with-lz4 --with-zstd --with-uuid=e2fs --with-libxml"
# Raise it when the steps below change what an installation holds.
BUILD_RECIPE=1
BUILD_DISK_MB=2500
# Length of a usual build log, for the percentage only.
BUILD_LOG_LINES=3700

PATCH_DIR=$PGXN_DIR/patches/17

series() { grep -v -e '^#' -e '^$' "$PATCH_DIR/series"; }

# Everything that a build depends on; a change of any of it is another build.
build_inputs() {
	local variant=$1 patch
	echo "$BUILD_RECIPE $SOURCE_VERSION $SOURCE_SHA256 $(uname -m)"
	echo "$PG_CC $PG_CFLAGS $CONFIGURE_FLAGS"
	"$PG_CC" --version | head -n 1
	# The libraries that the result is linked with come with the distribution.
	grep -E '^(ID|VERSION_ID)=' /etc/os-release 2>/dev/null || true
	[ "$variant" = patched ] || return 0
	for patch in $(series); do
		echo "$patch"
		cat "$PATCH_DIR/$patch"
	done
}

build_key() {
	command -v "$PG_CC" >/dev/null || die "no C compiler '$PG_CC'" "install it or set CC"
	build_inputs "$1" | sha256sum | cut -c1-12
}

variant_prefix() {
	local key
	key=$(build_key "$1") || exit 1
	echo "$CACHE/pg/17-$key-$1"
}

# The path of a finished installation, or an error.
built_prefix() {
	local prefix
	read_source || die "PostgreSQL is not built" "pgxn/pg build $1"
	prefix=$(variant_prefix "$1") || exit 1
	[ -d "$prefix" ] || die "the $1 PostgreSQL is not built" "pgxn/pg build $1"
	echo "$prefix"
}

build_variant() {
	local variant=$1 prefix
	command -v "$PG_CC" >/dev/null || { prepare_cache && ensure_packages; }
	fetch_source
	prefix=$(variant_prefix "$variant") || exit 1
	[ ! -d "$prefix" ] || return 0
	take_lock
	[ ! -d "$prefix" ] || return 0
	ensure_packages
	ensure_disk_mb "$BUILD_DISK_MB"
	rm -rf "$CACHE/build/pg-$variant".*
	compile "$variant" "$prefix"
}

compile() {
	local variant=$1 prefix=$2 work tree dest jobs log
	work=$(mktemp -d "$CACHE/build/pg-$variant.XXXXXX")
	WORK_DIRS+=("$work")
	tree=$work/tree dest=$work/dest log=$CACHE/log/build-$variant.log
	jobs=${OGEL_JOBS:-$(nproc)}
	: >"$log"
	progress_begin "PostgreSQL $SOURCE_VERSION $variant" "$BUILD_LOG_LINES" "$log"
	unpack_source "$variant" "$tree"
	cd "$tree"
	# shellcheck disable=SC2086
	step configuring env CC="$PG_CC" CFLAGS="$PG_CFLAGS" ./configure --prefix="$prefix" $CONFIGURE_FLAGS
	step "compiling the server" make -j"$jobs"
	step "compiling contrib" make -j"$jobs" -C contrib
	step "compiling the test modules" make -j"$jobs" -C src/test/modules
	step installing make DESTDIR="$dest" install
	step "installing contrib" make -C contrib DESTDIR="$dest" install
	step "installing the test modules" make -C src/test/modules DESTDIR="$dest" install
	step "keeping the test suites" bash -c "$(declare -f keep_suites); keep_suites '$dest$prefix/suites'"
	chmod -R a+rX "$dest$prefix"
	mv "$dest$prefix" "$prefix"
	cd /
	rm -rf "$work"
	progress_end
}

unpack_source() {
	local variant=$1 tree=$2 got patch
	got=$(sha256_of "$SOURCE_FILE")
	[ "$got" = "$SOURCE_SHA256" ] ||
		die "$SOURCE_FILE is damaged" "delete $CACHE/src and run this again"
	mkdir -p "$tree"
	step unpacking tar -xf "$SOURCE_FILE" -C "$tree" --strip-components=1
	[ "$variant" = patched ] || return 0
	for patch in $(series); do
		step "applying $patch" patch -d "$tree" -p1 --fuzz=0 --no-backup-if-mismatch -i "$PATCH_DIR/$patch"
	done
}

# What the suites need beside the installation, run from the built tree.
keep_suites() {
	local to=$1 dir
	set -e
	mkdir -p "$to/contrib" "$to/plpgsql"
	cp -a src/test/regress "$to/regress"
	cp -a src/test/isolation "$to/isolation"
	cp -a src/test/modules "$to/modules"
	cp -a src/pl/plpgsql/src/sql src/pl/plpgsql/src/expected "$to/plpgsql/"
	for dir in contrib/*/; do
		mkdir -p "$to/$dir"
		find "$dir" -mindepth 1 -maxdepth 1 \( -name sql -o -name expected -o -name specs -o -name data -o \
			-name '*.conf' -o -name Makefile \) -exec cp -a {} "$to/$dir" \;
	done
	find "$to" -name '*.o' -delete
}

# The series must apply without fuzz, whatever the 17.x.
check_patches() {
	local dir
	fetch_source
	dir=$(mktemp -d "$CACHE/build/check.XXXXXX")
	WORK_DIRS+=("$dir")
	: >"$CACHE/log/check-patches.log"
	progress_begin "check of $(series | wc -l) patches on PostgreSQL $SOURCE_VERSION" 100 "$CACHE/log/check-patches.log"
	unpack_source patched "$dir/tree"
	[ -z "$(find "$dir/tree" -name '*.rej' -o -name '*.orig')" ] || die "a patch left rejects"
	progress_end
}

write_manifest() {
	local file=$1 patched stock template major minor
	if [ -L "$file" ] || { [ -e "$file" ] && [ ! -f "$file" ]; }; then
		die "$file is not a regular file" "name a file that may be replaced"
	fi
	read_source || die "PostgreSQL is not built" "pgxn/pg build all"
	patched=$(built_prefix patched) || exit 1
	# Only tests and benchmarks need the stock build.
	stock=null
	! (built_prefix stock) >/dev/null 2>&1 || stock="\"$(built_prefix stock)\""
	template=$(template_path) || exit 1
	[ -f "$template" ] || die "there is no template cluster" "pgxn/pg template"
	major=${SOURCE_VERSION%%.*} minor=${SOURCE_VERSION#*.}
	mkdir -p "$(dirname "$file")"
	printf '{"pg_version": "%s", "pg_version_num": %d, "patched": "%s", "stock": %s, "template": "%s"}\n' \
		"$SOURCE_VERSION" $((major * 10000 + minor)) "$patched" "$stock" "$template" >"$file.new"
	mv "$file.new" "$file"
}
