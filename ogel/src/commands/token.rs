//! `ogel keys` and `ogel token`: who may talk to storage nodes.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use ogel_ids::{TenantId, TimelineId};
use ogel_service::auth::{Claims, Scope, SigningKey, sign};
use serde_json::json;

use super::print;

const DAY_S: u64 = 24 * 60 * 60;

/// Options of `ogel keys`.
#[derive(clap::Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    verb: KeysVerb,
}

#[derive(clap::Subcommand)]
enum KeysVerb {
    /// Make a key pair: FILE (private: keep it) and FILE.pub (give it to the servers as --auth-keys)
    New {
        /// Where to; it must not exist
        file: PathBuf,
    },
}

/// Options of `ogel token`.
#[derive(clap::Args)]
pub struct TokenArgs {
    /// Private key, made by `ogel keys new`
    #[arg(long, env = "OGEL_PRIVATE_KEY", value_name = "FILE")]
    key: PathBuf,
    /// For whom
    #[arg(long, default_value = "tenant")]
    scope: Scope,
    /// Whose data, for the scope `tenant`: 32 hexadecimal digits
    #[arg(long, value_name = "ID")]
    tenant: Option<TenantId>,
    /// This timeline of the tenant only
    #[arg(long, value_name = "ID", requires = "tenant")]
    timeline: Option<TimelineId>,
    /// How long it is good for
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
}

/// Carries out `ogel keys`.
pub fn keys(args: &KeysArgs, json: bool) -> anyhow::Result<ExitCode> {
    let KeysVerb::New { file } = &args.verb;
    let public = new_key(file)?;
    print(json, &json!({"private": file, "public": public}), |_| {
        format!("private key: {}\npublic key: {}", file.display(), public.display())
    });
    Ok(ExitCode::SUCCESS)
}

/// Carries out `ogel token`.
pub fn token(args: &TokenArgs, json: bool) -> anyhow::Result<ExitCode> {
    if (args.scope == Scope::Tenant) != args.tenant.is_some() {
        bail!("--tenant belongs to the scope tenant, and is needed there");
    }
    let claims = Claims { scope: args.scope, tenant: args.tenant, timeline: args.timeline, exp: in_days(args.days)? };
    let token = sign(&SigningKey::load(&args.key)?, &claims);
    print(json, &json!({"token": token, "exp": claims.exp}), |_| token.clone());
    Ok(ExitCode::SUCCESS)
}

/// Makes `file` and `file.pub`; returns the latter.
pub fn new_key(file: &Path) -> anyhow::Result<PathBuf> {
    let (private, public) = SigningKey::generate();
    let mut public_path = file.to_owned().into_os_string();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    ensure!(!public_path.exists(), "{} is there already: keys are not overwritten", public_path.display());
    write_secret(file, &private)?;
    std::fs::write(&public_path, public).with_context(|| format!("cannot write {}", public_path.display()))?;
    Ok(public_path)
}

/// Makes the keys and tokens of a local cluster in `folder`, unless they are there.
pub fn make_cluster_tokens(folder: &Path, tenant: TenantId) -> anyhow::Result<()> {
    if folder.join("key").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    new_key(&folder.join("key"))?;
    let key = SigningKey::load(&folder.join("key"))?;
    let exp = in_days(3650)?;
    let whom = [
        ("admin", Scope::Admin, None),
        ("compute", Scope::Tenant, Some(tenant)),
        ("pageserver", Scope::Pageserver, None),
        ("safekeeper", Scope::SafekeeperPeer, None),
    ];
    for (name, scope, tenant) in whom {
        let token = sign(&key, &Claims { scope, tenant, timeline: None, exp });
        write_secret(&folder.join(format!("{name}.token")), &token)?;
    }
    Ok(())
}

fn in_days(days: u64) -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970: set it")?;
    Ok(now.as_secs() + days * DAY_S)
}

/// A file that only its owner reads.
fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
