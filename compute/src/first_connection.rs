//! The supervisor's own session right after the start.

use std::{path::Path, time::Duration};

use anyhow::Context;
use ogel_pgwire::{Address, Client, ConnectOptions};

use crate::{
    config::{Auth, Password},
    postgres::SUPERUSER,
};

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Makes sure that clients can connect: a first query (it also fills Postgres' cache of catalogs, so that the first client does
/// not pay for it), and a password for the superuser if TCP clients need one and it has none.
pub async fn first_connection(socket: &Path, auth: Auth, password: Option<&Password>) -> anyhow::Result<()> {
    let mut options = ConnectOptions::new(Address::Unix(socket.to_owned()))
        .parameter("user", SUPERUSER)
        .parameter("database", "postgres")
        .parameter("application_name", "ogel-supervisor")
        // Its queries are not the users', and one of them may contain a password.
        .parameter("options", "-c pg_stat_statements.track=none");
    options.timeout = TIME_LIMIT;
    let session = async {
        let mut client = Client::connect(&options).await.context("the first connection failed")?;
        let query = format!("SELECT 1 FROM pg_catalog.pg_authid WHERE rolname = '{SUPERUSER}' AND rolpassword IS NULL");
        let without_password = !client.simple_query(&query).await.context("the first query failed")?.rows.is_empty();
        match password {
            Some(password) if without_password => set_password(&mut client, password).await,
            None if without_password && auth == Auth::Scram => {
                tracing::warn!(
                    "the role {SUPERUSER} has no password: clients cannot log in over TCP; set OGEL_PASSWORD and start again"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    };
    tokio::time::timeout(TIME_LIMIT, session).await.context("the first query was not answered in time")?
}

async fn set_password(client: &mut Client, password: &Password) -> anyhow::Result<()> {
    // The text must not reach Postgres' log, whatever the user's settings are.
    client
        .simple_query(
            "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = 'panic'",
        )
        .await?;
    let literal = password.reveal().replace('\'', "''");
    client
        .simple_query(&format!("ALTER ROLE {SUPERUSER} PASSWORD '{literal}'"))
        .await
        .context("setting the password failed")?;
    tracing::info!("the role {SUPERUSER} has got the password of OGEL_PASSWORD");
    Ok(())
}
