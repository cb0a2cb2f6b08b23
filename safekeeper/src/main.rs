//! `safekeeper`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use ogel_service::{Shutdown, config, freed_memory, listen, logging};
use safekeeper::{Safekeeper, Settings, archive::check::ArchiveCommand};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "archive") {
        return archive();
    }
    let settings: Settings = config::parse_or_exit();
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `safekeeper archive …`
fn archive() -> ExitCode {
    let command = ArchiveCommand::parse_from(std::env::args_os().skip(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(command.run())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(settings: &Settings) -> anyhow::Result<()> {
    settings.check()?;
    if settings.service.check_config {
        println!("the settings are good");
        return Ok(());
    }
    freed_memory::Kept::FOR_WAL.bound();
    logging::init(settings.service.log_format);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let (pg, http) = settings.listen_addresses()?;
        tracing::info!(pg, http, asks_for_tokens = !settings.auth.keys.is_empty(), "listening");
        let (pg, http) = (listen::bind(&pg).await?, listen::bind(&http).await?);
        Safekeeper::start(settings, pg, http, shutdown).await?.run_to_end().await;
        Ok(())
    })
}
