//! What can be found wrong before anything is started, each said in one line with the next step.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, bail, ensure};

use crate::{
    config::{Config, SqlListen},
    postgres::run_user::RunUser,
};

/// Checks the binaries; returns who Postgres will run as.
pub fn check_binaries(config: &Config) -> anyhow::Result<RunUser> {
    let run_user = RunUser::find(&config.run_user)?;
    check_postgres(&config.pg_prefix, run_user)?;
    if let Some(folder) = &config.ext_dir {
        let library = folder.join("ogel.so");
        ensure!(
            library.is_file(),
            "there is no {}: without the extension Postgres cannot reach its pages; build compute-ext and point OGEL_EXT_DIR (--ext-dir) at it",
            library.display()
        );
    }
    Ok(run_user)
}

fn check_postgres(prefix: &Path, run_user: RunUser) -> anyhow::Result<()> {
    let binary = prefix.join("bin/postgres");
    ensure!(
        binary.is_file(),
        "there is no {}: build the patched PostgreSQL with pgxn/pg, or correct OGEL_PG_PREFIX (--pg-prefix)",
        binary.display()
    );
    let mut command = Command::new(&binary);
    command.arg("-V").current_dir("/");
    if let RunUser::Other { uid, gid } = run_user {
        command.uid(uid).gid(gid);
    }
    let output = command.output().with_context(|| {
        format!(
            "{} cannot be run by the user that Postgres runs as: every folder down to it needs o+x",
            binary.display()
        )
    })?;
    let version = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{} -V fails: {}",
        binary.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    ensure!(
        version.split_whitespace().any(|word| word.starts_with("17.")),
        "{} is {:?}, PostgreSQL 17 is needed: correct OGEL_PG_PREFIX (--pg-prefix)",
        binary.display(),
        version.trim()
    );
    Ok(())
}

/// The addresses that Postgres can listen on. Postgres itself would go on with some of them taken, and clients would reach
/// whoever has taken them.
pub fn free_addresses(listen: &SqlListen) -> anyhow::Result<SqlListen> {
    let mut addresses = Vec::new();
    for address in &listen.addresses {
        match TcpListener::bind(address) {
            Ok(_closed_again) => addresses.push(*address),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                bail!(
                    "{address} is in use by another process: stop that one, or choose another OGEL_SQL_LISTEN (--sql-listen)"
                )
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!(
                    "{address} may not be listened on by this user: choose a port from 1024 on in OGEL_SQL_LISTEN (--sql-listen)"
                )
            }
            Err(error) => {
                tracing::info!(%address, %error, "this machine does not have the address, it is left out");
            }
        }
    }
    ensure!(
        !addresses.is_empty(),
        "none of the addresses of OGEL_SQL_LISTEN (--sql-listen) is this machine's: {}",
        list(&listen.addresses)
    );
    Ok(SqlListen { addresses, port: listen.port })
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = free_addresses(&SqlListen { addresses: vec![address], port: address.port() }).expect_err("taken");
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[test]
    fn an_address_of_another_machine_is_left_out() {
        let (ours, other): (SocketAddr, SocketAddr) =
            ("127.0.0.1:0".parse().expect("valid"), "203.0.113.1:0".parse().expect("valid"));
        let listen = free_addresses(&SqlListen { addresses: vec![other, ours], port: 1 }).expect("one is left");
        assert_eq!(listen.addresses, [ours]);
    }
}
