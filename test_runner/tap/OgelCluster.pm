# Has PostgreSQL::Test::Cluster run OgelBase: each node is a storage of its own (`ogel up --no-compute`) and a compute on it.
#
# Loaded with -MOgelCluster before a test file. It replaces what begins and ends a server's life; everything else is PostgreSQL's own.
#
#   BASEDIR/storage/    the storage, made by `ogel`
#   BASEDIR/pgdata/     what the test has written into configuration files; handed over at each start
#   COMPUTES/PID-N/     the compute's folder; lives/N/pgdata in it is the data directory while the server runs
#
# Environment (set by tap.py): OGEL_SETTINGS, NAME=VALUE by spaces, for where a test has no choice of its own; OGEL_STOPS=kill has every stop
# be a kill; OGEL_SOCKETS=1, clients use unix sockets; OGEL_RELEASE, folder of our programs; OGEL_PG, the patched installation; OGEL_COMPUTES, COMPUTES, whose name
# is short, as names of sockets must be.
package OgelCluster;

use strict;
use warnings FATAL => 'all';

use File::Copy ();
use HTTP::Tiny;
use JSON::PP ();
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(usleep time);
use PostgreSQL::Test::Utils ();
use PostgreSQL::Test::Cluster;

# Until a start or a stop has certainly failed.
our $limit_s = 120;
# The compute's socket lies in a folder that changes with each life: clients come over TCP, or by a link to it where it is the subject.
$PostgreSQL::Test::Utils::use_unix_sockets = $ENV{OGEL_SOCKETS} ? 1 : 0;
# The superuser that every branch has. Servers that connect to each other without a name do so as the system's user.
our $superuser = 'postgres';
our $system_user = getpwuid($<);
$ENV{PGUSER} = $superuser unless $ENV{OGEL_SOCKETS};

# Settings that safety rests on, or that follow from where a compute runs: fixed, so a test's own choice is left out.
my %fixed = map { $_ => 1 } qw(
  fsync full_page_writes wal_init_zero wal_recycle wal_log_hints synchronous_commit max_slot_wal_keep_size wal_sender_timeout
  restart_after_crash archive_mode logging_collector log_destination synchronous_standby_names listen_addresses port
  unix_socket_directories unix_socket_permissions dynamic_library_path data_directory config_file hba_file ident_file
  external_pid_file primary_conninfo restore_command recovery_target_timeline);
# The supervisor's slot, connection and worker take one of each.
my %shared = map { $_ => 1 } qw(max_replication_slots max_wal_senders max_worker_processes);

my $hba = "local all all trust\nlocal replication all trust\nhost all all all trust\nhost replication all all trust\n";

sub program { return "$ENV{OGEL_RELEASE}/$_[0]" }

my $computes = 0;
sub compute_dir { my ($node) = @_; return $node->{ogel_compute} //= "$ENV{OGEL_COMPUTES}/$$-" . ++$computes; }

sub ogel
{
	my ($node, @args) = @_;
	my $out = '';
	IPC::Run::run([ program('ogel'), '--dir', "$node->{_basedir}/storage", '--json', @args ], '<', '/dev/null', '>', \$out)
	  or return;
	return $out;
}

# Name => value from what the test has written and from what it has set with ALTER SYSTEM.
sub settings
{
	my ($node) = @_;
	my %set;
	for my $name (qw(postgresql.conf postgresql.auto.conf))
	{
		my $path = "$node->{_basedir}/pgdata/$name";
		next unless -e $path;
		for my $line (split /\n/, PostgreSQL::Test::Utils::slurp_file($path))
		{
			my ($key, $value) = $line =~ /^\s*([\w.]+)\s*(?:=\s*|\s)('(?:[^'\\]|''|\\.)*'|[^\s#]*)/ or next;
			if ($value =~ s/^'(.*)'$/$1/s) { $value =~ s/''/'/g; $value =~ s/\\(.)/$1/g; }
			$set{ lc $key } = $value;
		}
	}
	delete @set{ grep { $fixed{$_} } keys %set };
	# Pages are made from WAL, and what the quorum gets must not be minimal.
	delete $set{wal_level} if ($set{wal_level} // '') eq 'minimal';
	$set{$_} += 1 for grep { $shared{$_} } keys %set;
	delete $set{max_wal_senders} if ($set{max_wal_senders} // 2) == 1;
	return %set;
}

# The data directory of the present life, if there is one.
sub live
{
	my ($node) = @_;
	my ($newest) = sort { ($b =~ m{/(\d+)/pgdata$})[0] <=> ($a =~ m{/(\d+)/pgdata$})[0] }
	  glob(compute_dir($node) . '/lives/*/pgdata');
	return $newest;
}

sub ended { my ($pid) = @_; return waitpid($pid, WNOHANG) != 0; }

sub wait_for_end
{
	my ($pid) = @_;
	my $end = time + $limit_s;
	while (waitpid($pid, WNOHANG) == 0) { return if time > $end; usleep 5_000; }
	return $? == 0;
}

sub run_compute
{
	my ($node) = @_;
	my $storage = JSON::PP::decode_json(PostgreSQL::Test::Utils::slurp_file("$node->{_basedir}/storage/ogel.json"));
	$node->{ogel_http} //= PostgreSQL::Test::Cluster::get_free_port();
	my %set = ((map { split /=/ } split ' ', $ENV{OGEL_SETTINGS} // ''), settings($node), cluster_name => $node->name);
	my @command = (
		program('compute'), 'run',
		'--data-dir' => compute_dir($node),
		'--tenant' => $storage->{tenant},
		'--timeline' => $storage->{branches}[0]{timeline},
		'--safekeepers' => join(',', map { "$_->{id}=127.0.0.1:$_->{pg_port}" } @{ $storage->{safekeepers} }),
		'--pageserver' => "127.0.0.1:$storage->{pageserver}{pg_port}",
		'--sql-listen' => ($node->host =~ m{^/} ? '127.0.0.1' : $node->host) . ':' . $node->port,
		'--http-listen' => "127.0.0.1:$node->{ogel_http}",
		'--pg-prefix' => $ENV{OGEL_PG},
		'--ext-dir' => program('ext'),
		map { "--pg-setting=$_=$set{$_}" } sort keys %set);
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	open STDIN, '<', '/dev/null';
	POSIX::dup2(POSIX::open("$node->{_basedir}/compute.log", POSIX::O_WRONLY() | POSIX::O_CREAT() | POSIX::O_APPEND()), $_) for 1, 2;
	exec @command or POSIX::_exit(127);
}

# Ends the supervisor and all of PostgreSQL as a machine's end would.
sub kill_all
{
	my ($node) = @_;
	my $supervisor = delete $node->{ogel_pid} or return;
	my $pgdata = live($node);
	kill 'STOP', $supervisor;
	if ($pgdata)
	{
		keep_files($node);
		for my $round (1 .. 1000)
		{
			my @pids = map { m{(\d+)} } grep { (readlink("$_/cwd") // '') =~ m{^\Q$pgdata\E( \(deleted\))?$} } glob('/proc/[0-9]*');
			last unless @pids;
			kill 'KILL', @pids;
			usleep 5_000;
		}
		# Its shared memory would stay until the machine restarts.
		my @pidfile = -e "$pgdata/postmaster.pid" ? split(/\n/, PostgreSQL::Test::Utils::slurp_file("$pgdata/postmaster.pid")) : ();
		system("ipcrm -m $1 2>/dev/null") if ($pidfile[6] // '') =~ /(\d+)\s*$/;
	}
	kill 'KILL', $supervisor;
	waitpid $supervisor, 0;
	return;
}

# ALTER SYSTEM's file goes with the life in which it was written; tests expect it to be there at the next start.
sub keep_files
{
	my ($node) = @_;
	my $pgdata = live($node) or return;
	for my $name (qw(postgresql.auto.conf pg_hba.conf pg_ident.conf))
	{
		File::Copy::copy("$pgdata/$name", "$node->{_basedir}/pgdata/$name") if -e "$pgdata/$name";
	}
	return;
}

package PostgreSQL::Test::Cluster;

use strict;
use warnings FATAL => 'all';
no warnings 'redefine';

my %own;
BEGIN { %own = map { $_ => __PACKAGE__->can($_) } qw(append_conf adjust_conf); }

sub data_dir
{
	my ($self) = @_;
	return $self->{ogel_write_to} // ($self->{ogel_pid} && OgelCluster::live($self)) // $self->basedir . '/pgdata';
}

sub logfile { my ($self) = @_; return OgelCluster::compute_dir($self) . '/postgres.log'; }

sub rotate_logfile
{
	my ($self) = @_;
	rename $self->logfile, $self->logfile . '.' . ++$self->{_logfile_generation};
	return $self->logfile;
}

sub init
{
	my ($self, %params) = @_;
	mkdir $_ for $self->backup_dir, $self->archive_dir;
	mkdir $self->data_dir, 0700 or die "mkdir: $!";
	my @conf = ("log_line_prefix = '%m [%p] %q%a '", 'log_statement = all', 'log_replication_commands = on', "wal_retrieve_retry_interval = '500ms'", 'allow_alter_system = on');
	my $streaming = $params{allows_streaming} // 0;
	push @conf, 'wal_level = ' . ($streaming eq 'logical' ? 'logical' : 'replica'), 'max_wal_senders = 10', 'max_replication_slots = 10',
	  'shared_buffers = 1MB', 'max_connections = 10', 'max_wal_size = 128MB'
	  if $streaming;
	$self->append_conf('postgresql.conf', join "\n", @conf);
	OgelCluster::take_initdb_options($self, map { /^(--[\w-]+)=(.*)/ ? ($1, $2) : $_ } @{ $params{extra} // [] });
	BAIL_OUT('ogel up failed') unless OgelCluster::ogel($self, 'up', '--no-compute', '--port', $self->port);
	return;
}

sub append_conf
{
	my ($self, $filename, @rest) = @_;
	return OgelCluster::in_folders($self, $own{append_conf}, $filename, @rest);
}

sub adjust_conf
{
	my ($self, $filename, @rest) = @_;
	return OgelCluster::in_folders($self, $own{adjust_conf}, $filename, @rest);
}

sub start
{
	my ($self, %params) = @_;
	my $name = $self->name;
	BAIL_OUT("node \"$name\" is already running") if defined $self->{_pid};
	print("### Starting node \"$name\"\n");
	$self->{ogel_pid} = OgelCluster::run_compute($self);
	my ($end, $url) = (Time::HiRes::time + $OgelCluster::limit_s, "http://127.0.0.1:$self->{ogel_http}/readyz");
	until (HTTP::Tiny->new(timeout => 5)->get($url)->{success})
	{
		my $gone = OgelCluster::ended($self->{ogel_pid});
		if ($gone || Time::HiRes::time > $end)
		{
			print '# the compute ' . ($gone ? 'has ended' : 'is not ready') . ', see ' . $self->basedir . "/compute.log\n";
			$gone ? delete $self->{ogel_pid} : OgelCluster::kill_all($self);
			$self->{_pid} = undef;
			BAIL_OUT('pg_ctl start failed') unless $params{fail_ok};
			return 0;
		}
		usleep(10_000);
	}
	OgelCluster::after_start($self);
	$self->_update_pid(1);
	return 1;
}

sub stop
{
	my ($self, $mode, %params) = @_;
	return 1 unless defined $self->{_pid};
	$mode //= 'fast';
	print '### Stopping node "' . $self->name . "\" using mode $mode\n";
	my $running = $self->{ogel_pid} && !OgelCluster::ended($self->{ogel_pid});
	my $stopped = $running;
	if ($running && ($mode eq 'immediate' || ($ENV{OGEL_STOPS} // '') eq 'kill')) { OgelCluster::kill_all($self); }
	elsif ($running)
	{
		OgelCluster::keep_files($self);
		kill 'TERM', $self->{ogel_pid};
		$stopped = OgelCluster::wait_for_end($self->{ogel_pid});
	}
	delete $self->{ogel_pid};
	$self->{_pid} = undef;
	BAIL_OUT('pg_ctl stop failed') unless $stopped || $params{fail_ok};
	return $stopped ? 1 : 0;
}

sub kill9
{
	my ($self) = @_;
	return unless defined $self->{_pid};
	print '### Killing node "' . $self->name . "\" using signal 9\n";
	OgelCluster::kill_all($self);
	$self->{_pid} = undef;
	return;
}

sub restart
{
	my ($self, %params) = @_;
	print '### Restarting node "' . $self->name . "\"\n";
	return $self->stop('fast', %params) && $self->start(%params);
}

sub teardown_node
{
	my ($self, %params) = @_;
	OgelCluster::kill_all($self);
	$self->{_pid} = undef;
	OgelCluster::ogel($self, 'down', '--immediate') if -e $self->basedir . '/storage/ogel.json';
	return;
}

for my $name (qw(backup backup_fs_cold init_from_backup promote enable_streaming enable_restoring enable_archiving set_standby_mode set_recovery_mode logrotate))
{
	no strict 'refs';
	*$name = sub { die "refused: a compute has no $name\n" };
}

package OgelCluster;

# Runs a method of PostgreSQL's that writes into the data directory, on all folders that the file is in.
sub in_folders
{
	my ($node, $method, $filename, @rest) = @_;
	my $kept = $node->basedir . '/pgdata';
	my $live = $node->{ogel_pid} && live($node);
	# Other files than this are PostgreSQL's alone while it runs: the copy is taken when it stops.
	my @folders = $live ? ($filename eq 'postgresql.conf' ? ($kept, $live) : ($live)) : ($kept);
	for my $folder (@folders)
	{
		PostgreSQL::Test::Utils::append_to_file("$folder/$filename", $hba) if $filename eq 'pg_hba.conf' && !$live && !-e "$folder/$filename";
		local $node->{ogel_write_to} = $folder;
		$method->($node, $filename, @rest);
	}
	return;
}

# What initdb would make otherwise: settings, and databases of another encoding or locale provider.
sub take_initdb_options
{
	my ($node, @options) = @_;
	my %as = ('--encoding' => 'ENCODING', '--locale' => 'LOCALE', '--locale-provider' => 'LOCALE_PROVIDER', '--icu-locale' => 'ICU_LOCALE');
	my %made;
	while (my ($option, $value) = splice @options, 0, 2)
	{
		if ($option eq '-U') { $node->{ogel_user} = $value; }
		elsif ($option eq '-c') { $node->append_conf('postgresql.conf', $value); }
		elsif ($as{$option}) { $made{ $as{$option} } = $value; }
		else { die "refused: no $option for a new cluster\n"; }
	}
	return if ($made{ENCODING} // 'UTF8') eq 'UTF8' && !$made{LOCALE_PROVIDER};
	$made{LOCALE_PROVIDER} //= 'libc';
	$node->{ogel_databases} = join ' ', map { "$_ '$made{$_}'" } sort keys %made;
	return;
}

sub remake_databases
{
	my ($node) = @_;
	my $options = $node->{ogel_databases} or return;
	$node->safe_psql('template1', "CREATE DATABASE fresh TEMPLATE template0 $options; DROP DATABASE postgres; CREATE DATABASE postgres TEMPLATE fresh;");
	$node->safe_psql('postgres', qq(
		UPDATE pg_database SET datistemplate = false WHERE datistemplate;
		DROP DATABASE template0;
		DROP DATABASE template1;
		CREATE DATABASE template1 TEMPLATE fresh IS_TEMPLATE true;
		ALTER DATABASE fresh RENAME TO template0;
		UPDATE pg_database SET datcollversion = NULL WHERE datname = 'template0';
		ALTER DATABASE template0 IS_TEMPLATE true ALLOW_CONNECTIONS false;));
	return;
}

sub after_start
{
	my ($node) = @_;
	my $pgdata = live($node);
	if ($node->host =~ m{^/})
	{
		my ($link, $socket) = ($node->host . '/.s.PGSQL.' . $node->port, $pgdata =~ s{pgdata$}{socket/.s.PGSQL.}r . $node->port);
		unlink $link;
		symlink $socket, $link or die "symlink: $!";
	}
	if (!$node->{ogel_started}++)
	{
		# Not in what the test may look at.
		local $ENV{PGUSER} = $superuser;
		local $ENV{PGOPTIONS} = '-c pg_stat_statements.track=none';
		remake_databases($node);
		for my $user (grep { $_ ne $superuser } $node->{ogel_user} // $system_user)
		{
			$node->safe_psql('postgres', qq(CREATE ROLE "$user" SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS LOGIN));
		}
	}
	for my $name (qw(pg_hba.conf pg_ident.conf))
	{
		my $kept = $node->basedir . "/pgdata/$name";
		next unless -e $kept && PostgreSQL::Test::Utils::slurp_file($kept) ne PostgreSQL::Test::Utils::slurp_file("$pgdata/$name");
		File::Copy::copy($kept, "$pgdata/$name");
		$node->reload;
	}
	return;
}

1;
