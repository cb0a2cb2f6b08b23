//! Replacing a safekeeper that lost its data; the node does the work, see the safekeeper's `POST /v1/rejoin`.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::{sync::mpsc::UnboundedSender, time::sleep};

use super::{Daemon, bring_up::local, node::Phase};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

impl Daemon {
    /// Starts the node when it does not run, and waits until it is a member of all timelines again.
    pub async fn replace_safekeeper(&self, number: u64, progress: &UnboundedSender<String>) -> anyhow::Result<Value> {
        let name = format!("safekeeper-{number}");
        let node = self.node(&name)?;
        if node.state().phase != Phase::Running {
            node.start().await?;
        }
        self.wait_until_ready(&name).await?;
        let address = local(node.spec.http_port);
        self.http.post(&address, "/v1/rejoin").await?;
        let mut said = String::new();
        loop {
            let status = self.http.get(&address, "/v1/rejoin", ANSWER_TIMEOUT).await?;
            let now = describe(&status);
            if now != said {
                let _nobody_listens = progress.send(format!("{name}: {now}"));
                said = now;
            }
            if status["running"] == false {
                if status["complete"] == true {
                    return Ok(status);
                }
                bail!("{name} is not replaced yet: {}; correct that and repeat the command", failures(&status));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

fn timelines(status: &Value) -> impl Iterator<Item = &Value> {
    status["timelines"].as_array().into_iter().flatten()
}

fn describe(status: &Value) -> String {
    let finished = |timeline: &&Value| !matches!(timeline["state"].as_str(), Some("waiting" | "adopting" | "pulling"));
    let (all, done) = (timelines(status).count(), timelines(status).filter(finished).count());
    let pulling = timelines(status).find(|timeline| timeline["state"] == "pulling");
    let copied = pulling.map_or_else(String::new, |timeline| {
        let mib = |name: &str| timeline[name].as_u64().unwrap_or_default() >> 20;
        format!(", {} of {} MiB of the next copied", mib("done_bytes"), mib("total_bytes"))
    });
    format!("{done} of {all} timelines{copied}")
}

fn failures(status: &Value) -> String {
    let errors = status["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let failed = timelines(status).filter_map(|timeline| timeline["error"].as_str());
    let mut all: Vec<&str> = errors.chain(failed).collect();
    let count = all.len();
    all.truncate(3);
    match count {
        0 => "no other safekeeper has a timeline".into(),
        1..=3 => all.join("; "),
        _ => format!("{}; and {} more", all.join("; "), count - 3),
    }
}
