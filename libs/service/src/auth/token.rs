//! A token's form: RFC 7515 compact, `base64url(header).base64url(claims).base64url(signature)`, with `{"alg":"EdDSA"}` only.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{Claims, SigningKey};

/// Longest token.
const MAX_TOKEN_BYTES: usize = 4096;

/// A token that lets nobody in. Says nothing of the token itself: the text may be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// None was shown.
    #[error("a token is needed")]
    Missing,
    /// It is none.
    #[error("what was shown is not a token signed with EdDSA")]
    Malformed,
    /// Nobody known has signed it.
    #[error("the token is not signed by a key that this server knows")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood: none is.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// Makes a token.
pub fn sign(key: &SigningKey, claims: &Claims) -> String {
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"EdDSA","typ":"JWT"}"#);
    let claims = serde_json::to_vec(claims).expect("claims are plain fields");
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// Nothing of the claims is looked at before the signature is known to be good.
pub(super) fn verify(token: &str, is_signed: impl Fn(&[u8], &[u8]) -> bool) -> Result<Claims, TokenError> {
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
    let Some((message, signature)) = token.rsplit_once('.').filter(|_| token.len() <= MAX_TOKEN_BYTES) else {
        return Err(TokenError::Malformed);
    };
    let (header, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
    if header.alg != "EdDSA" || header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    if !is_signed(message.as_bytes(), &decode(signature)?) {
        return Err(TokenError::Signature);
    }
    let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |time| time.as_secs());
    if claims.exp > now_s { Ok(claims) } else { Err(TokenError::Expired) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Grant, Scope, Verifier};

    fn key() -> (SigningKey, String) {
        let (private, public) = SigningKey::generate();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), private).unwrap();
        (SigningKey::load(file.path()).unwrap(), public)
    }

    fn claims(exp: u64) -> Claims {
        Claims { scope: Scope::Admin, tenant: None, timeline: None, exp }
    }

    #[test]
    fn only_what_a_known_key_signed_lets_in() {
        let ((key, public), (new_key, new_public)) = (key(), self::key());
        let token = sign(&key, &claims(u64::MAX));
        let verifier = Verifier::load(std::slice::from_ref(&public)).unwrap();
        assert_eq!(verifier.verify(&token), Ok(Grant::Token(claims(u64::MAX))));
        assert_eq!(verifier.verify(&sign(&new_key, &claims(u64::MAX))), Err(TokenError::Signature));
        let rotating = Verifier::load(&[public, new_public]).unwrap();
        assert!(rotating.verify(&token).is_ok() && rotating.verify(&sign(&new_key, &claims(u64::MAX))).is_ok());
        assert_eq!(verifier.verify(&sign(&key, &claims(1))), Err(TokenError::Expired));
        assert_eq!(verifier.verify(""), Err(TokenError::Missing));
    }

    #[test]
    fn every_changed_or_weaker_token_is_refused() {
        let (key, public) = key();
        let verifier = Verifier::load(&[public]).unwrap();
        let token = sign(&key, &claims(u64::MAX));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(verifier.verify(std::str::from_utf8(&changed).unwrap()).is_err(), "changed at {at}");
            assert!(verifier.verify(&token[..at]).is_err(), "cut at {at}");
        }
        let rest = token.split_once('.').unwrap().1;
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"EdDSA","crit":["x"]}"#, "{}"] {
            let weaker = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
            assert_eq!(verifier.verify(&weaker), Err(TokenError::Malformed), "{header}");
        }
        assert_eq!(verifier.verify(&"a.".repeat(4096)), Err(TokenError::Malformed));
    }
}
