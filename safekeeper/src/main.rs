//! `safekeeper`: see `--help`.

use std::process::ExitCode;

use ogel_service::{Shutdown, config, listen, logging};
use safekeeper::{Safekeeper, Settings};

fn main() -> ExitCode {
    let settings: Settings = config::parse_or_exit();
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> anyhow::Result<()> {
    settings.check()?;
    if settings.service.check_config {
        println!("the settings are good");
        return Ok(());
    }
    logging::init(settings.service.log_format);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let pg = listen::bind(&settings.listen_pg).await?;
        let http = listen::bind(&settings.listen_http).await?;
        Safekeeper::start(settings, pg, http, shutdown).await?.run_to_end().await;
        Ok(())
    })
}
