//! The settings.

use std::{fmt, fs, net::ToSocketAddrs, path::PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

use super::Verifier;

/// The environment variable that may hold the token itself; not a flag, because others see a process's flags.
const TOKEN_VARIABLE: &str = "OGEL_AUTH_TOKEN";

/// Settings of a server that checks tokens.
#[derive(Debug, Clone, Args)]
pub struct AuthArgs {
    /// Public Ed25519 keys (PEM) of those whose tokens let in; several while keys are changed. Without any, nobody is asked and only loopback is served
    #[arg(long = "auth-keys", env = "OGEL_AUTH_KEYS", value_name = "FILE,…", value_delimiter = ',')]
    pub keys: Vec<String>,
    /// Serve other machines without asking for tokens: on a private network only
    #[arg(long, env = "OGEL_ALLOW_UNAUTHENTICATED", conflicts_with = "keys")]
    pub allow_unauthenticated: bool,
    /// What this server shows to others.
    #[command(flatten)]
    pub token: TokenArgs,
}

/// Settings of a process that shows a token.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// File with the token to show to other servers, read at each connection (or put the token into OGEL_AUTH_TOKEN)
    #[arg(long = "auth-token-file", env = "OGEL_AUTH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl AuthArgs {
    /// Reads the keys.
    pub fn verifier(&self) -> anyhow::Result<Verifier> {
        Verifier::load(&self.keys).context("OGEL_AUTH_KEYS (--auth-keys)")
    }

    /// Where to listen: as said, or on `port`, everywhere when that is safe. `setting` is for the text of a refusal.
    pub fn listen_address(&self, setting: &str, said: Option<&str>, port: u16) -> anyhow::Result<String> {
        let open = self.allow_unauthenticated || !self.keys.is_empty();
        let Some(address) = said else {
            return Ok(if open { format!("[::]:{port}") } else { format!("127.0.0.1:{port}") });
        };
        let form = || format!("{setting} is {address:?}; HOST:PORT is expected, such as [::]:{port}");
        address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).with_context(form)?;
        let is_loopback = || address.to_socket_addrs().is_ok_and(|mut all| all.all(|one| one.ip().is_loopback()));
        ensure!(
            open || is_loopback(),
            "{setting} {address} serves other machines, and nobody is asked for a token: anybody there could read and write all data; \
             give the public keys in OGEL_AUTH_KEYS (--auth-keys), listen on 127.0.0.1, or set OGEL_ALLOW_UNAUTHENTICATED=true \
             (--allow-unauthenticated) if the network is private"
        );
        Ok(address.to_owned())
    }
}

impl TokenArgs {
    /// Where the token is.
    pub fn source(&self) -> TokenSource {
        match (&self.token_file, std::env::var(TOKEN_VARIABLE)) {
            (Some(file), _) => TokenSource::File(file.clone()),
            (None, Ok(token)) if !token.trim().is_empty() => TokenSource::Text(token.trim().to_owned()),
            _ => TokenSource::None,
        }
    }

    /// Where the token is, and that it can be read now.
    pub fn checked_source(&self) -> anyhow::Result<TokenSource> {
        let source = self.source();
        source.current().context("OGEL_AUTH_TOKEN_FILE (--auth-token-file)")?;
        Ok(source)
    }
}

/// The token that this process shows.
#[derive(Clone, Default)]
pub enum TokenSource {
    /// It has none.
    #[default]
    None,
    /// In a file, which may be replaced at any time.
    File(PathBuf),
    /// This one.
    Text(String),
}

impl TokenSource {
    /// The token as it is now.
    pub fn current(&self) -> std::io::Result<Option<String>> {
        match self {
            Self::None => Ok(None),
            Self::Text(token) => Ok(Some(token.clone())),
            Self::File(path) => fs::read_to_string(path).map(|text| Some(text.trim().to_owned())).map_err(|error| {
                std::io::Error::new(error.kind(), format!("the token file {}: {error}", path.display()))
            }),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no token",
            Self::File(_) => "a token in a file",
            Self::Text(_) => "a token",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_served_without_keys() {
        let token = TokenArgs { token_file: None };
        let closed = AuthArgs { keys: Vec::new(), allow_unauthenticated: false, token };
        let listen = |args: &AuthArgs, said| args.listen_address("--listen-pg", said, 5454).ok();
        assert_eq!(listen(&closed, None).as_deref(), Some("127.0.0.1:5454"));
        assert_eq!(listen(&closed, Some("127.0.0.1:7")).as_deref(), Some("127.0.0.1:7"));
        for open_to_others in ["[::]:5454", "0.0.0.0:5454", "192.0.2.1:5454", "127.0.0.1", "no.such.host.invalid:5"] {
            assert_eq!(listen(&closed, Some(open_to_others)), None, "{open_to_others}");
        }
        for open in [
            AuthArgs { allow_unauthenticated: true, ..closed.clone() },
            AuthArgs { keys: vec!["key.pem".into()], ..closed.clone() },
        ] {
            assert_eq!(listen(&open, None).as_deref(), Some("[::]:5454"));
            assert_eq!(listen(&open, Some("0.0.0.0:1")).as_deref(), Some("0.0.0.0:1"));
        }
    }
}
