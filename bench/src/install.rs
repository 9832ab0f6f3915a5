//! Builds and installs the contenders and the load generator, below `target/` and beside their sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const REQUIREMENTS: &str = "bench/contenders/python/requirements.txt";
const OHA: &str = "oha@1.16.0";

/// Where everything is.
pub struct Installed {
    /// The workspace's root.
    pub root: PathBuf,
    /// The Rust contenders' binaries.
    pub binaries: PathBuf,
    pub python: PathBuf,
    pub oha: PathBuf,
}

impl Installed {
    pub fn contender(&self, path: &str) -> String {
        self.root.join("bench/contenders").join(path).display().to_string()
    }

    pub fn binary(&self, name: &str) -> String {
        self.binaries.join(name).display().to_string()
    }
}

/// The version of a Python package that the contenders use, as `name==version`.
pub fn python_package(root: &Path, name: &str) -> Result<String> {
    let requirements = std::fs::read_to_string(root.join(REQUIREMENTS))?;
    let mut lines = requirements.lines();
    let pinned = lines.find(|line| line.starts_with(&format!("{name}==")));
    pinned.map(str::to_owned).with_context(|| format!("{REQUIREMENTS} does not pin {name}"))
}

/// The version of the TypeScript SDK.
pub fn typescript_sdk(root: &Path) -> Result<String> {
    let package = std::fs::read_to_string(root.join("bench/contenders/typescript/package.json"))?;
    let package: Value = serde_json::from_str(&package)?;
    let version = package.pointer("/dependencies/bedrock-agentcore").and_then(Value::as_str);
    version.map(str::to_owned).context("package.json names no bedrock-agentcore")
}

/// Installs what is not there yet.
pub fn install() -> Result<Installed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?.to_owned();
    let target = root.join("target");
    let folder = target.join("bench");
    let (python, oha) = (folder.join("python/bin/python"), folder.join("oha/bin/oha"));
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("python")))?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&python).args(pip).arg(root.join(REQUIREMENTS)))?;
    let typescript = root.join("bench/contenders/typescript");
    let npm = ["install", "--silent", "--no-fund", "--no-audit"];
    run(Command::new("npm").args(npm).current_dir(typescript))?;
    if !oha.exists() {
        let cargo = ["install", OHA, "--locked", "--quiet", "--root"];
        run(Command::new("cargo").args(cargo).arg(folder.join("oha")))?;
    }
    build(&root, &target, &["any_agent", "bare", "container"])?;
    Ok(Installed { root, binaries: target.join("release"), python, oha })
}

/// Builds Rust contenders, as a user would, apart from what the bench itself depends on.
pub fn build(root: &Path, target: &Path, contenders: &[&str]) -> Result<()> {
    let cargo = |folder: &Path| {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--quiet", "--target-dir"]).arg(target);
        cargo.current_dir(folder);
        cargo
    };
    run(cargo(root).args(["-p", "invoker", "--bin", "bootstrap"]))?;
    let contenders = contenders.iter().flat_map(|name| ["--bin", name]);
    run(cargo(&root.join("bench")).args(["-p", "contenders"]).args(contenders))
}

/// Builds the local system and the operator's command.
pub fn build_programs(installed: &Installed) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet", "-p", "local", "-p", "operator", "--target-dir"]);
    run(cargo.arg(installed.root.join("target")).current_dir(&installed.root))
}

pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}
