//! Ed25519 keys in PEM files, as OpenSSL writes them.

use std::{fs, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};

use super::{
    Grant,
    token::{self, TokenError},
};

/// DER of an Ed25519 public key up to the key (RFC 8410).
const PUBLIC_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Longest key file.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("the key file {0} cannot be read: {1}")]
    File(String, std::io::Error),
    /// Its content.
    #[error(
        "{0} holds no usable Ed25519 {1} key in PEM: make one with `ogel keys new`, or `openssl genpkey -algorithm ed25519`"
    )]
    Content(String, &'static str),
}

/// Checks tokens. Without keys it lets everybody in.
#[derive(Debug, Clone, Default)]
pub struct Verifier(Option<Arc<[[u8; 32]]>>);

impl Verifier {
    /// Reads public keys; each source is a file, or PEM itself. No source at all: tokens are not asked for.
    pub fn load(sources: &[String]) -> Result<Self, KeyError> {
        if sources.is_empty() {
            return Ok(Self(None));
        }
        let mut keys = Vec::new();
        for source in sources {
            let (name, text) = match source.contains("-----BEGIN") {
                true => ("the configured key".to_owned(), source.clone()),
                false => (source.clone(), read(Path::new(source))?),
            };
            let found = pem_blocks(&text, "PUBLIC KEY");
            let parsed: Option<Vec<[u8; 32]>> =
                found.iter().map(|der| der.strip_prefix(&PUBLIC_HEAD)?.try_into().ok()).collect();
            match parsed {
                Some(parsed) if !parsed.is_empty() => keys.extend(parsed),
                _ => return Err(KeyError::Content(name, "public")),
            }
        }
        Ok(Self(Some(keys.into())))
    }

    /// Whether tokens are asked for.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What the holder of this token may do. Nobody is asked for one when there are no keys.
    pub fn verify(&self, token: &str) -> Result<Grant, TokenError> {
        let Some(keys) = &self.0 else { return Ok(Grant::Everything) };
        let signed_by_us = |message: &[u8], signature: &[u8]| {
            keys.iter().any(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok())
        };
        token::verify(token, signed_by_us).map(Grant::Token)
    }
}

/// Signs tokens.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes a key: PEM of the private and of the public one.
    pub fn generate() -> (String, String) {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("the kernel's random numbers are always there after boot");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("it was made right above");
        let public = [&PUBLIC_HEAD[..], pair.public_key().as_ref()].concat();
        (pem("PRIVATE KEY", document.as_ref()), pem("PUBLIC KEY", &public))
    }

    /// Reads a private key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let blocks = pem_blocks(&read(path)?, "PRIVATE KEY");
        let pair = blocks.first().and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok());
        pair.map(Self).ok_or_else(|| KeyError::Content(path.display().to_string(), "private"))
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

fn read(path: &Path) -> Result<String, KeyError> {
    let failed = |error| KeyError::File(path.display().to_string(), error);
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        return Err(failed(std::io::Error::other(format!("it has {size} bytes"))));
    }
    fs::read_to_string(path).map_err(failed)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The contents of all blocks of this kind; one that is broken is an empty one.
fn pem_blocks(text: &str, label: &str) -> Vec<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let bodies = text.split(&begin).skip(1).map(|rest| rest.split_once(&end).map_or("", |(body, _)| body));
    bodies.map(|body| STANDARD.decode(body.split_whitespace().collect::<String>()).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl genpkey -algorithm ed25519 | openssl pkey -pubout`
    const OPENSSL: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn keys_are_read_from_pem() {
        let both = format!("{OPENSSL}{}", SigningKey::generate().1);
        assert_eq!(Verifier::load(&[both]).unwrap().0.unwrap().len(), 2);
        assert!(!Verifier::load(&[]).unwrap().is_on());
        let cut = OPENSSL.replace("MCow", "MCo");
        for wrong in ["-----BEGIN PUBLIC KEY-----", "/nowhere/key.pem", &cut, &SigningKey::generate().0] {
            assert!(Verifier::load(&[wrong.to_owned()]).is_err(), "no key must not mean no check");
        }
    }
}
