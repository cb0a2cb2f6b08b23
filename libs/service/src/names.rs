//! Whether the names of other machines mean anything here.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::{net::lookup_host, time::timeout};

/// A name that is made known while we start, as container platforms do it, is waited for this long.
const LIMIT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(250);

/// Fails when fewer than `needed` of the addresses (`host:port`) have a name that can be resolved: then `variable` is wrong, or the name
/// server is. Whether somebody answers there is not asked: a machine may be away, and come back.
pub async fn check(variable: &str, addresses: &[&str], needed: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let mut unknown = Vec::new();
        for address in addresses {
            match timeout(LIMIT, lookup_host(*address)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => unknown.push(format!("{address} ({error})")),
                Err(_) => unknown.push(format!("{address} (the name server does not answer)")),
            }
        }
        if addresses.len() - unknown.len() >= needed {
            return Ok(());
        }
        if began.elapsed() + PAUSE > LIMIT {
            bail!(
                "{variable} names machines that are not known here: {}; correct the names, or start what is called so",
                unknown.join(", ")
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_name_server_and_one_name_may_be_away() {
        check("V", &["127.0.0.1:1", "[::1]:2", "no-such-machine.invalid:3"], 2).await.unwrap();
    }
}
