//! The pageserver's process.

use std::sync::Arc;

use anyhow::Context;
use ogel_service::{
    Shutdown, auth, config, freed_memory,
    http::{self, Readiness},
    listen, logging, names,
};
use pageserver::{config::Config, metrics::Metrics, page_service, pageserver::Pageserver, tools};

fn main() -> std::process::ExitCode {
    if let Some(done) = tools::run_named() {
        return done;
    }
    let config: Config = config::parse_or_exit();
    if let Err(error) = config.check() {
        eprintln!("error: {error:#}");
        return std::process::ExitCode::from(2);
    }
    if config.service.check_config {
        println!("the settings are good");
        return std::process::ExitCode::SUCCESS;
    }
    freed_memory::Kept::FOR_LAYERS.bound();
    logging::init(config.service.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime.context("the runtime cannot be started").and_then(|runtime| runtime.block_on(run(config))) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("signals cannot be handled")?;
    let safekeepers: Vec<_> = config.safekeepers.iter().map(String::as_str).collect();
    names::check("OGEL_SAFEKEEPERS (--safekeepers)", &safekeepers, 1).await?;
    let (pg, http) = config.listen_addresses()?;
    let (pg_listener, http_listener) = (listen::bind(&pg).await?, listen::bind(&http).await?);
    let (metrics, registry) = Metrics::registered();
    let readiness = Readiness::starting();
    let base = http::base_routes(readiness.clone(), Arc::new(registry));
    let pageserver = Pageserver::start(&config, metrics, shutdown.clone()).await?;
    let router = auth::protect(base.merge(pageserver::http::routes(pageserver.clone())), pageserver.verifier.clone());
    let http_server = tokio::spawn(http::serve(http_listener, router, shutdown.clone()));
    let pages = tokio::spawn(page_service::serve(pg_listener, pageserver.clone()));
    tokio::spawn(pageserver.clone().run_eviction());
    tokio::spawn(pageserver.clone().run_compaction());
    let warm_up = pageserver.clone();
    tokio::spawn(async move { warm_up.warm_up().await });
    tracing::info!(
        node_id = config.node_id,
        pg,
        http,
        asks_for_tokens = pageserver.verifier.is_on(),
        version = env!("CARGO_PKG_VERSION"),
        "pageserver runs"
    );
    readiness.set_ready();
    shutdown.wait().await;
    readiness.set_not_ready("shutting down");
    pages.await?;
    pageserver.stop().await;
    http_server.await??;
    Ok(())
}
