//! Our client against our server, and hostile clients against our server.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::time::Duration;

use ogel_pgwire::{
    Accepted, Address, Client, Column, ConnectOptions, Connection, FrontendMessage, Limits, ServerMessage, WireError,
    sqlstate,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn listen() -> (TcpListener, ConnectOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    (listener, ConnectOptions::new(address).setting("ogel.tenant", "a b"))
}

async fn serve_one(listener: TcpListener) -> Result<(), WireError> {
    let (stream, _) = listener.accept().await?;
    let Accepted::Session(mut connection) = Connection::accept(stream, Limits::default()).await? else { return Ok(()) };
    assert_eq!(connection.startup().setting("ogel.tenant"), Some("a b"));
    connection.welcome("17.11").await?;
    while let Some(message) = connection.read_message().await? {
        match message {
            FrontendMessage::Query(sql) if sql == "rows" => {
                connection.writer().row_description(&[Column::text("name"), Column::int8("size")]);
                connection.writer().data_row(&[Some(b"x"), None]);
                connection.writer().command_complete("SELECT 1");
                connection.writer().ready_for_query();
                connection.writer().flush().await?;
            }
            FrontendMessage::Query(sql) if sql == "copy" => {
                let (reader, writer) = connection.split();
                writer.copy_both_response();
                writer.flush().await?;
                while let Some(frame) = reader.read_frame().await? {
                    match FrontendMessage::try_from(frame)? {
                        FrontendMessage::CopyData(data) => writer.send_copy_data(b"echo ", &data).await?,
                        _ => break,
                    }
                }
                writer.copy_done();
                writer.flush().await?;
            }
            FrontendMessage::Query(_) => {
                let error = ServerMessage::error(sqlstate::SYNTAX_ERROR, "no").with_hint("say rows");
                connection.refuse(&error).await?;
            }
            _ => break,
        }
    }
    Ok(())
}

#[tokio::test]
async fn queries_errors_and_copies() {
    let (listener, options) = listen().await;
    let server = tokio::spawn(serve_one(listener));
    let mut client = Client::connect(&options).await.unwrap();
    assert_eq!(client.parameter("server_version"), Some("17.11"));
    let result = client.simple_query("rows").await.unwrap();
    assert_eq!((result.value(0, "name"), result.value(0, "size")), (Some("x"), None));
    let Err(WireError::Server(error)) = client.simple_query("nonsense").await else { panic!("an error was expected") };
    assert_eq!((error.sqlstate.as_str(), error.hint.as_deref()), (sqlstate::SYNTAX_ERROR, Some("say rows")));

    let (mut reader, mut writer) = client.copy_both("copy").await.unwrap();
    let big = vec![7_u8; 1 << 20];
    let sending = tokio::spawn(async move {
        for _ in 0..8 {
            writer.send(b"", &big).await.unwrap();
        }
        writer.finish().await.unwrap();
    });
    for _ in 0..8 {
        let piece = reader.receive().await.unwrap().unwrap();
        assert!(piece.len() == 5 + (1 << 20) && piece.starts_with(b"echo \x07"));
    }
    assert!(reader.receive().await.unwrap().is_none());
    sending.await.unwrap();
    server.await.unwrap().unwrap();
}

async fn send_raw(bytes: &[u8]) -> (Result<(), WireError>, Vec<u8>) {
    let (listener, _) = listen().await;
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let limits = Limits { max_frame_bytes: 1000, startup_timeout: Duration::from_secs(5) };
        if let Accepted::Session(mut connection) = Connection::accept(stream, limits).await? {
            while connection.read_message().await?.is_some() {}
        }
        Ok(())
    });
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await; // a reset is as good as an end
    (server.await.unwrap(), answer)
}

#[tokio::test]
async fn hostile_clients_get_errors() {
    let start = b"\0\0\0\x13\0\x03\0\0user\0ogel\0\0";
    assert!(send_raw(start).await.0.is_ok());
    assert!(matches!(send_raw(&[0xff; 64]).await.0, Err(WireError::TooLong { .. })));
    assert!(matches!(send_raw(b"GET / HTTP/1.1\r\n\r\n").await.0, Err(WireError::TooLong { .. })));
    let oversized = [&start[..], b"Q\x7f\xff\xff\xff"].concat();
    assert!(matches!(send_raw(&oversized).await.0, Err(WireError::TooLong { .. })));
    let cut = [&start[..], b"Q\0\0\0\x20abc"].concat();
    assert!(matches!(send_raw(&cut).await.0, Err(WireError::Closed)));
    let (result, answer) = send_raw(&[&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], start].concat()).await;
    assert!(result.is_ok() && answer == b"N", "encryption is declined, then the session starts");
    assert!(send_raw(b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\0\0\0\0\0").await.0.is_ok(), "cancel requests are dropped");
}
