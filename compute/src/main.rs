//! `compute`: see the library for what it does, `compute run --help` for how.

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use anyhow::Context;
use compute::{
    board::Board,
    conf_file::ConfFile,
    config::{Args, Config},
    data_dir::DataDir,
    exit_code, http, preflight,
    propose::Progress,
    stop::Stop,
    supervisor::{Outcome, Supervisor},
};
use ogel_service::{Shutdown, config, freed_memory, listen, logging, metrics::registry::Registry, names};

const HELP: &str = "\
Runs a stateless PostgreSQL 17 on the quorum of a branch's safekeepers.

Usage: compute run [OPTIONS]

Commands:
  run   Win the election, start Postgres, stream its WAL to the quorum

Options:
  -h, --help     Print this; `compute run --help` prints all settings and exit codes
  -V, --version  Print the version
";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = match arguments.first().and_then(|first| first.to_str()) {
        Some("run") => run(&arguments[1..]),
        None | Some("-h" | "--help" | "help") => {
            print!("{HELP}");
            exit_code::STOPPED
        }
        Some("-V" | "--version") => {
            println!("compute {}", env!("CARGO_PKG_VERSION"));
            exit_code::STOPPED
        }
        Some(_) => {
            eprintln!("error: {:?} is not a command of compute\n\n{HELP}", arguments[0]);
            exit_code::BAD_CONFIGURATION
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(arguments: &[OsString]) -> i32 {
    let arguments = std::iter::once(OsString::from("compute run")).chain(arguments.iter().cloned());
    let args: Args = config::parse_from(arguments).unwrap_or_else(|error| config::exit_with::<Args>(error));
    let (check_only, log_format) = (args.service.check_config, args.service.log_format);
    let checked = Config::try_from(args).and_then(|config| Ok((preflight::check_binaries(&config)?, config)));
    let (run_user, config) = match checked {
        Ok(checked) => checked,
        Err(error) => return report("the settings cannot be used", &error, exit_code::BAD_CONFIGURATION),
    };
    if check_only {
        println!("the settings are good");
        return exit_code::STOPPED;
    }
    freed_memory::Kept::FOR_WAL.bound();
    logging::init(log_format);
    // One thread: Postgres must be started by the main thread, which lives as long as the process.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report("starting", &error.into(), exit_code::FAILED),
    };
    match runtime.block_on(serve(config, run_user)) {
        Ok(Outcome::Stopped) => exit_code::STOPPED,
        Ok(Outcome::Fenced { by_term }) => {
            tracing::error!(%by_term, "fenced: a newer compute of this branch has taken over; this one does not come back by itself");
            exit_code::FENCED
        }
        Err(error) => report("compute has failed", &error, exit_code::FAILED),
    }
}

fn report(what: &str, error: &anyhow::Error, code: i32) -> i32 {
    eprintln!("error: {what}: {error:#}");
    code
}

async fn serve(config: Config, run_user: compute::postgres::run_user::RunUser) -> anyhow::Result<Outcome> {
    let stop = Stop::on_signals()?;
    let safekeepers: Vec<_> = config.safekeepers.iter().map(|safekeeper| safekeeper.address.as_str()).collect();
    names::check("OGEL_SAFEKEEPERS (--safekeepers)", &safekeepers, safekeepers.len() / 2 + 1).await?;
    names::check("OGEL_PAGESERVER (--pageserver)", &[&config.pageserver], 1).await?;
    let data_dir = DataDir::take(&config.data_dir, run_user).await?;
    let sql_listen = preflight::free_addresses(&config.sql_listen)?;
    let (board, progress, shutdown) = (Board::default(), Progress::default(), Shutdown::new());
    let conf_file = ConfFile::new(config.pg_settings.clone(), &config.pageserver, run_user);
    let http_server = match &config.http_listen {
        None => None,
        Some(address) => {
            let listener = listen::bind(address).await.context("OGEL_HTTP_LISTEN (--http-listen)")?;
            tracing::info!(address = %listen::bound(&listener)?, "status over HTTP");
            let mut registry = Registry::default();
            progress.register(&mut registry);
            let surface = http::Surface {
                board: board.clone(),
                progress: progress.clone(),
                stop: stop.clone(),
                conf_file: conf_file.clone(),
                connection_string: sql_listen.connection_string(),
            };
            let routes = http::routes(surface, Arc::new(registry));
            Some(tokio::spawn(ogel_service::http::serve(listener, routes, shutdown.clone())))
        }
    };
    let outcome = Supervisor { config, sql_listen, run_user, conf_file, data_dir, board, progress, stop }.run().await;
    shutdown.begin();
    if let Some(server) = http_server {
        // Whoever still reads a status gets it, but does not keep us.
        let _late = tokio::time::timeout(std::time::Duration::from_millis(500), server).await;
    }
    outcome
}
