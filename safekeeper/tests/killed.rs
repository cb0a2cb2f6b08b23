//! `kill -9` at any moment: what was acknowledged is there afterwards.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod node;

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::{BufMut, Bytes};
use node::{LIMIT, tenant, timeline, wal::Wal};
use ogel_ids::{CandidateId, Generation, Lsn, Term};
use ogel_pgwire::{Address, Client, ConnectOptions};
use quorum::{AcceptorMessage, Append, Elected, ProposerGreeting, ProposerMessage, VoteRequest};

struct Process {
    child: Child,
    pg: String,
    http: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

async fn spawn(folder: &Path) -> Process {
    let (pg, http) = (free_address(), free_address());
    let child = Command::new(env!("CARGO_BIN_EXE_safekeeper"))
        .args(["--node-id", "1", "--listen-pg", &pg, "--listen-http", &http, "--data-dir"])
        .arg(folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process { child, pg, http };
    let ready = async {
        while !reqwest::get(format!("http://{}/readyz", process.http)).await.is_ok_and(|r| r.status().is_success()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, ready).await.expect("the process serves");
    process
}

async fn get(process: &Process, path: &str) -> serde_json::Value {
    reqwest::get(format!("http://{}{path}", process.http)).await.unwrap().json().await.unwrap()
}

/// Pushes records until the process is gone; returns the last acknowledged end.
async fn push_until_killed(process: &mut Process, wal: &mut Wal, term: u64, kill_after: usize) -> Lsn {
    let options = ConnectOptions::new(Address::Tcp(process.pg.clone()))
        .setting("ogel.tenant", tenant())
        .setting("ogel.timeline", timeline(1));
    let (mut reader, mut writer) = Client::connect(&options).await.unwrap().copy_both("START_WAL_PUSH").await.unwrap();
    let mut outgoing = vec![ProposerMessage::Greeting(ProposerGreeting {
        tenant: tenant(),
        timeline: timeline(1),
        system_identifier: 0,
        pg_major_version: 17,
        wal_segment_size_bytes: 0,
    })];
    let (term, generation) = (Term(term), Generation(1));
    let candidate = CandidateId::from_bytes([term.0 as u8; 16]);
    let (mut acknowledged, mut sent) = (Lsn(0), 0);
    loop {
        for message in outgoing.drain(..) {
            writer.write(|body| body.put_slice(&message.encode()));
        }
        let _ = writer.flush().await; // the process may be gone by now
        let Ok(Some(frame)) = reader.receive().await else { return acknowledged };
        match AcceptorMessage::decode(frame).unwrap() {
            AcceptorMessage::Greeting(_) => {
                outgoing.push(ProposerMessage::VoteRequest(VoteRequest { generation, term, candidate }));
            }
            AcceptorMessage::Vote(vote) => {
                assert!(vote.granted);
                wal.cut_at(vote.flush_lsn);
                let history = vote.history.continued(term, vote.flush_lsn).unwrap();
                let truncate_at = vote.flush_lsn;
                outgoing.push(ProposerMessage::Elected(Elected { generation, term, candidate, truncate_at, history }));
            }
            AcceptorMessage::AppendAnswer(answer) => {
                if answer.last_log_term == term {
                    acknowledged = acknowledged.max(answer.flush_lsn);
                }
                sent += 1;
                if sent == kill_after {
                    process.child.kill().unwrap();
                }
                let begin = wal.end();
                let bytes = wal.append(7000 * (sent % 5));
                outgoing.push(ProposerMessage::Append(Append {
                    generation,
                    term,
                    begin,
                    commit_lsn: Lsn(0),
                    truncate_lsn: Lsn(0),
                    wal: Bytes::from(bytes),
                }));
            }
            AcceptorMessage::Refused(refused) => panic!("{refused:?}"),
        }
    }
}

#[tokio::test]
async fn acknowledged_wal_survives_kill_9() {
    let folder = node::folder("killed");
    let mut wal = Wal::new();
    let mut process = spawn(&folder).await;
    let status = get(&process, "/v1/status").await;
    let me = format!("1:{}", status["store_uuid"].as_str().unwrap());
    let stranger = "11".repeat(16);
    let url = format!(
        "http://{}/v1/tenant/{}/timeline/{}?system_identifier={}&pg_version_num=170011&wal_segment_size={}&start_lsn={}\
         &generation=1&members={me},2:{stranger}",
        process.http,
        tenant(),
        timeline(1),
        node::wal::SYSTEM_ID,
        node::wal::SEGMENT_SIZE,
        wal.start()
    );
    let created = reqwest::Client::new().put(url).body(wal.prefix().to_vec()).send().await.unwrap();
    assert_eq!(created.status().as_u16(), 201);

    for (round, kill_after) in [1, 2, 40, 77, 150, 301].into_iter().enumerate() {
        let acknowledged = push_until_killed(&mut process, &mut wal, round as u64 + 1, kill_after).await;
        drop(process);
        process = spawn(&folder).await;
        let state = get(&process, &format!("/v1/tenant/{}/timeline/{}", tenant(), timeline(1))).await;
        let flushed: Lsn = state["flush_lsn"].as_str().unwrap_or_else(|| panic!("{state}")).parse().unwrap();
        assert!(flushed >= acknowledged, "{acknowledged} was acknowledged, {flushed} is left");
    }
}
