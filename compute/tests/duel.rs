//! Hazard H18: a compute whose Postgres has died must not depose the compute that was elected meanwhile. The first campaign of
//! a process is its starter's wish and goes ahead.

use anyhow::{Context, bail};
use bytes::BufMut;
use compute::{
    config::SafekeeperAddress,
    propose::{Progress, Reign, ReignEnd, ReignSpec},
};
use ogel_ids::{Generation, Lsn, NodeId, StoreUuid, TenantId, Term, TimelineId};
use ogel_pgwire::{Accepted, Connection, FrontendMessage, Limits};
use quorum::{AcceptorGreeting, AcceptorMessage, Member, Membership, ProposerMessage};
use tokio::net::TcpListener;

/// What the safekeeper says it has accepted.
const SEEN_TERM: Term = Term(7);

/// Greets one proposer with `SEEN_TERM` and returns the term that it then asks a vote for, or nothing when it goes away.
async fn greet_once(listener: TcpListener) -> anyhow::Result<Option<Term>> {
    let (stream, _) = listener.accept().await?;
    let Accepted::Session(mut connection) = Connection::accept(stream, Limits::default()).await? else {
        bail!("no session")
    };
    connection.welcome("17.11").await?;
    let Some(FrontendMessage::Query(_)) = connection.read_message().await? else { bail!("no query") };
    connection.writer().copy_both_response();
    connection.writer().flush().await?;
    let member = Member { node_id: NodeId(1), store_uuid: StoreUuid::from_bytes([1; 16]) };
    let greeting = AcceptorMessage::Greeting(AcceptorGreeting {
        node_id: member.node_id,
        store_uuid: member.store_uuid,
        term: SEEN_TERM,
        system_identifier: 1,
        pg_version_num: 170_011,
        wal_segment_size_bytes: 16 << 20,
        timeline_start_lsn: Lsn(0x0100_0028),
        membership: Membership::new(Generation(1), vec![member], None)?,
    });
    loop {
        let Ok(Some(message)) = connection.read_message().await else { return Ok(None) };
        let FrontendMessage::CopyData(payload) = message else { return Ok(None) };
        match ProposerMessage::decode(payload)? {
            ProposerMessage::Greeting(_) => {
                connection.writer().copy_data(|body| body.put(greeting.encode()));
                connection.writer().flush().await?;
            }
            ProposerMessage::VoteRequest(request) => return Ok(Some(request.term)),
            other => bail!("unexpected {other:?}"),
        }
    }
}

async fn campaign(
    own_highest_term: Option<Term>,
) -> anyhow::Result<(Reign, tokio::task::JoinHandle<anyhow::Result<Option<Term>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let safekeeper = tokio::spawn(greet_once(listener));
    let reign = Reign::start(ReignSpec {
        tenant: TenantId::from_bytes([1; 16]),
        timeline: TimelineId::from_bytes([2; 16]),
        safekeepers: vec![SafekeeperAddress { node_id: NodeId(1), address }],
        token: Default::default(),
        own_highest_term,
        progress: Progress::default(),
    })?;
    Ok((reign, safekeeper))
}

#[tokio::test]
async fn a_later_life_gives_way_to_a_term_it_never_asked_for() -> anyhow::Result<()> {
    let (reign, safekeeper) = campaign(Some(Term(5))).await?;
    assert_eq!(reign.ended().await, ReignEnd::Fenced { by_term: SEEN_TERM });
    reign.finish().await;
    assert_eq!(safekeeper.await??, None, "no vote was asked for");
    Ok(())
}

#[tokio::test]
async fn a_first_life_and_its_own_terms_campaign() -> anyhow::Result<()> {
    for own_highest_term in [None, Some(SEEN_TERM)] {
        let (reign, safekeeper) = campaign(own_highest_term).await?;
        let asked = safekeeper.await?.context("the safekeeper")?;
        assert_eq!(asked, Some(Term(SEEN_TERM.0 + 1)), "{own_highest_term:?}");
        reign.finish().await;
    }
    Ok(())
}
