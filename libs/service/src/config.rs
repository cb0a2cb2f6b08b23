//! Settings from a file, the environment and flags, in rising order of precedence.
//!
//! A service declares its settings once, as clap arguments with `long` and `env = "OGEL_…"`, and flattens [`ServiceArgs`] into
//! them. The file is TOML whose keys are the long flags without dashes in front (`data-dir = "/var/lib/ogel"`); it only changes
//! the defaults, so that `--help`, checks and types are clap's in all three places.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Context, bail};
use clap::{
    Arg, ArgMatches, Args, Command, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::logging::LogFormat;

/// Settings that every service has.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// TOML file with settings, named as the flags are; environment and flags override it
    #[arg(long, env = "OGEL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look on standard error (filter by OGEL_LOG, for example OGEL_LOG=debug)
    #[arg(long, env = "OGEL_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Check the settings, say what is wrong or that they are good, and exit
    #[arg(long)]
    pub check_config: bool,
}

/// Reads the settings of this process; prints what is wrong and exits with code 2 when they cannot be used.
pub fn parse_or_exit<T: Parser>() -> T {
    parse_from(std::env::args_os()).unwrap_or_else(|error| exit_with::<T>(error))
}

/// Prints why the settings cannot be used, as one line where it names a setting, and exits with code 2 (0 for `--help`).
pub fn exit_with<T: Parser>(error: anyhow::Error) -> ! {
    match error.downcast::<clap::Error>() {
        Ok(error) => match in_one_line(&T::command(), &error) {
            Some(line) => eprintln!("error: {line}"),
            None => error.exit(),
        },
        Err(error) => eprintln!("error: {error:#}"),
    }
    std::process::exit(2)
}

/// What is wrong with a setting, with the variable that a container's owner has to change. `None` where there is no variable: then clap
/// itself says more.
fn in_one_line(command: &Command, error: &clap::Error) -> Option<String> {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => vec![describe(command, text)],
        Some(ContextValue::Strings(texts)) => texts.iter().map(|text| describe(command, text)).collect(),
        _ => Vec::new(),
    };
    let these = named(ContextKind::InvalidArg);
    if !these.iter().any(|setting| setting.contains('(')) {
        return None;
    }
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument => {
            let verb = if these.len() == 1 { "is not set" } else { "are not set" };
            Some(format!("{} {verb}; --help tells what belongs there", these.join(", ")))
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Some(format!("{} cannot be {value:?}{cause}; --help tells what belongs there", these.join(", ")))
        }
        ErrorKind::ArgumentConflict => {
            let others = named(ContextKind::PriorArg);
            Some(format!("{} and {} exclude each other; remove one of them", these.join(", "), others.join(", ")))
        }
        _ => None,
    }
}

/// `--node-id <NUMBER>` as `OGEL_NODE_ID (--node-id)`.
fn describe(command: &Command, usage: &str) -> String {
    let flag = usage.split([' ', '=']).next().unwrap_or(usage);
    match variable(command, flag) {
        Some(variable) => format!("{variable} ({flag})"),
        None => flag.to_owned(),
    }
}

/// The variable of a flag, of the command or of one below it.
fn variable(command: &Command, flag: &str) -> Option<String> {
    let argument =
        command.get_arguments().find(|arg| arg.get_long().is_some() && arg.get_long() == flag.strip_prefix("--"));
    match argument.and_then(Arg::get_env) {
        Some(variable) => Some(variable.to_string_lossy().into_owned()),
        None => command.get_subcommands().find_map(|below| variable(below, flag)),
    }
}

/// Reads the settings from these arguments, the environment and the file that they name.
pub fn parse_from<T: Parser>(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> anyhow::Result<T> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = T::command();
    if let Some(path) = config_path(&command, &arguments) {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("the configuration file {} cannot be read", path.display()))?;
        command = with_file_defaults(command, &text)
            .with_context(|| format!("the configuration file {} cannot be used", path.display()))?;
    }
    let matches: ArgMatches = command.try_get_matches_from(arguments)?;
    Ok(T::from_arg_matches(&matches)?)
}

/// Finds the file before the other settings are checked, since it may supply those that are missing.
fn config_path(command: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = command
        .clone()
        .ignore_errors(true)
        .disable_help_flag(true)
        .try_get_matches_from(arguments.iter().cloned())
        .ok()?;
    matches.try_get_one::<PathBuf>("config").ok().flatten().cloned()
}

fn with_file_defaults(mut command: Command, text: &str) -> anyhow::Result<Command> {
    let table: toml::Table = toml::from_str(text)?;
    for (key, value) in table {
        let names = || command.get_arguments().filter_map(|arg| arg.get_long()).filter(|name| *name != "config");
        let wanted = key.replace('_', "-");
        let Some(id) = command.get_arguments().find(|a| a.get_long() == Some(&wanted)).map(|a| a.get_id().clone())
        else {
            let nearest =
                names().max_by(|a, b| strsim::jaro_winkler(a, &wanted).total_cmp(&strsim::jaro_winkler(b, &wanted)));
            bail!(
                "there is no setting {key:?}; did you mean {:?}? --help lists all",
                nearest.unwrap_or("check-config")
            );
        };
        let values = match value {
            toml::Value::Array(items) => items.into_iter().map(scalar).collect::<anyhow::Result<Vec<_>>>(),
            single => scalar(single).map(|text| vec![text]),
        }
        .with_context(|| format!("setting {key:?}"))?;
        command = command.mut_arg(id, |arg| arg.required(false).default_values(values));
    }
    Ok(command)
}

fn scalar(value: toml::Value) -> anyhow::Result<String> {
    Ok(match value {
        toml::Value::String(text) => text,
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        other => bail!("a text, a number, true or false is expected, not a {}", other.type_str()),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, Parser)]
    struct Settings {
        #[command(flatten)]
        service: ServiceArgs,
        #[arg(long)]
        node_id: u64,
        #[arg(long, value_delimiter = ',')]
        peers: Vec<String>,
        #[arg(long)]
        no_sync: bool,
    }

    fn parse(file: &str, flags: &[&str]) -> anyhow::Result<Settings> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config.toml");
        std::fs::write(&path, file)?;
        let path = path.display().to_string();
        let arguments = ["service", "--config", &path].into_iter().chain(flags.iter().copied());
        parse_from(arguments)
    }

    #[test]
    fn the_file_supplies_what_no_flag_gives() {
        let settings = parse("node-id = 7\npeers = [\"a\", \"b\"]\nno_sync = true", &[]).unwrap();
        assert_eq!((settings.node_id, settings.peers.len(), settings.no_sync), (7, 2, true));
        assert_eq!(parse("node-id = 7", &["--node-id", "9"]).unwrap().node_id, 9);
    }

    #[test]
    fn a_setting_that_is_wrong_is_named_with_its_variable() {
        #[derive(Debug, Parser)]
        struct Settings {
            #[arg(long, env = "OGEL_TEST_NODE_ID", value_name = "NUMBER")]
            _node_id: u64,
            #[arg(long, env = "OGEL_TEST_KEYS")]
            _keys: Option<String>,
            #[arg(long, env = "OGEL_TEST_OPEN", conflicts_with = "_keys")]
            _open: bool,
        }
        let line = |flags: &[&str]| {
            let arguments = ["service"].iter().chain(flags).map(OsString::from);
            let error = parse_from::<Settings>(arguments).unwrap_err().downcast::<clap::Error>().unwrap();
            in_one_line(&Settings::command(), &error).unwrap()
        };
        assert!(line(&[]).starts_with("OGEL_TEST_NODE_ID (--node-id) is not set"), "{}", line(&[]));
        let wrong = line(&["--node-id", "x"]);
        assert!(wrong.starts_with("OGEL_TEST_NODE_ID (--node-id) cannot be \"x\": invalid digit"), "{wrong}");
        let both = line(&["--node-id=1", "--open", "--keys=a"]);
        assert!(both.contains("OGEL_TEST_OPEN") && both.contains("OGEL_TEST_KEYS"), "{both}");
        assert!([wrong, both].iter().all(|text| !text.contains('\n')));
    }

    #[test]
    fn mistakes_are_named() {
        let error = format!("{:#}", parse("nod-id = 7", &[]).unwrap_err());
        assert!(error.contains("\"nod-id\"") && error.contains("\"node-id\""), "{error}");
        assert!(parse("node-id = \"x\"", &[]).is_err());
        assert!(parse("node-id = {a = 1}", &[]).is_err());
        assert!(parse("", &[]).is_err(), "a required setting is still required");
    }
}
