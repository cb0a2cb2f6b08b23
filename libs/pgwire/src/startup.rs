//! The start-up packet and the settings in its `options`.

use std::collections::BTreeMap;

use crate::{WireError, frame::Fields};

/// What a client said when it connected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// Start-up parameters as sent (`user`, `database`, `replication`, `application_name`, …).
    pub parameters: BTreeMap<String, String>,
    /// Settings given in `options`: `-c name=value`, `-cname=value` or `--name=value`.
    pub settings: BTreeMap<String, String>,
}

/// What the first packet of a connection asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstPacket {
    /// TLS or GSSAPI encryption.
    Encryption,
    /// Cancel a query of another connection.
    Cancel,
    /// A session; `newer` when the client would like a newer minor version or protocol extensions.
    Session { startup: Startup, newer: bool, extensions: Vec<String> },
}

impl FirstPacket {
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields(body);
        match fields.u32()? {
            80_877_103 | 80_877_104 => Ok(Self::Encryption),
            80_877_102 => Ok(Self::Cancel),
            code if code >> 16 == 3 => {
                let (startup, extensions) = Startup::parse(fields)?;
                Ok(Self::Session { startup, newer: code & 0xffff != 0 || !extensions.is_empty(), extensions })
            }
            code => Err(WireError::Version { major: (code >> 16) as u16, minor: code as u16 }),
        }
    }
}

impl Startup {
    fn parse(mut fields: Fields<'_>) -> Result<(Self, Vec<String>), WireError> {
        let mut startup = Self::default();
        let mut extensions = Vec::new();
        loop {
            let name = fields.text()?;
            if name.is_empty() {
                break;
            }
            let value = fields.text()?;
            if name.starts_with("_pq_.") {
                extensions.push(name.to_owned());
            } else {
                startup.parameters.insert(name.to_owned(), value.to_owned());
            }
        }
        if let Some(options) = startup.parameters.get("options") {
            startup.settings = parse_options(options)?;
        }
        Ok((startup, extensions))
    }

    /// A setting given in `options`.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}

/// Splits at white space (a backslash takes the next character literally), then reads `-c name=value` and `--name=value`.
fn parse_options(text: &str) -> Result<BTreeMap<String, String>, WireError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);

    let mut settings = BTreeMap::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let assignment = match (word.strip_prefix("-c"), word.strip_prefix("--")) {
            (Some(""), _) => words.next().ok_or(WireError::Malformed("options: -c without a setting"))?,
            (Some(rest), _) => rest.to_owned(),
            (_, Some(rest)) => rest.to_owned(),
            _ => return Err(WireError::Malformed("options: only -c name=value and --name=value are understood")),
        };
        let (name, value) =
            assignment.split_once('=').ok_or(WireError::Malformed("options: a setting needs name=value"))?;
        settings.insert(name.to_owned(), value.to_owned());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        body
    }

    #[test]
    fn settings_are_taken_out_of_options() {
        let body = packet(&[("user", "u"), ("options", r"-c a.b=1 -cx=y\ z   --w=")]);
        let Ok(FirstPacket::Session { startup, newer: false, .. }) = FirstPacket::parse(&body) else {
            panic!("not a session")
        };
        assert_eq!(startup.setting("a.b"), Some("1"));
        assert_eq!(startup.setting("x"), Some("y z"));
        assert_eq!(startup.setting("w"), Some(""));
        assert_eq!(startup.parameters["user"], "u");
    }

    #[test]
    fn broken_packets_are_errors() {
        let good = packet(&[("user", "u"), ("options", "-c a=1")]);
        for length in 0..good.len() {
            assert!(FirstPacket::parse(&good[..length]).is_err(), "cut at {length}");
        }
        for options in ["-c", "-c a", "x=y", "-d 5"] {
            assert!(FirstPacket::parse(&packet(&[("options", options)])).is_err(), "{options}");
        }
        assert!(FirstPacket::parse(&[0, 2, 0, 0]).is_err());
    }
}
