//! What this project is made of: crates of the registry under a permissive licence, and nothing else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// What a crate may be used under.
const PERMISSIVE: [&str; 8] =
    ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Zlib"];

fn permissive(license: &str) -> bool {
    // Lax, because some crates still write MIT/Apache-2.0.
    Expression::parse_mode(license, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|requirement| {
            requirement.license.id().is_some_and(|id| PERMISSIVE.contains(&id.name))
        })
    })
}

#[test]
fn the_rule_lets_pass_what_is_permissive_and_nothing_else() {
    for license in
        ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "MIT OR LGPL-2.1-or-later", "ISC AND MIT"]
    {
        assert!(permissive(license), "{license}");
    }
    for license in
        ["", "AGPL-3.0", "MIT AND GPL-3.0", "LGPL-2.1-or-later", "BUSL-1.1", "Proprietary"]
    {
        assert!(!permissive(license), "{license}");
    }
}

#[test]
fn every_dependency_is_permissive_and_from_the_registry() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let members = metadata["workspace_members"].as_array().unwrap();
    assert!(packages.len() > members.len());
    for package in packages {
        let (name, license) = (&package["name"], package["license"].as_str().unwrap_or_default());
        assert!(permissive(license), "{name} is under {license:?}");
        let registry =
            package["source"].as_str().is_some_and(|source| source.starts_with("registry+"));
        assert!(
            registry || members.contains(&package["id"]),
            "{name} is from {}",
            package["source"]
        );
    }
}

/// The features of the crates that decide what a program can do, as a build of these packages has
/// them.
fn features(packages: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}|{f}"])
        .args(packages)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        // Empty between two packages.
        let Some((package, features)) = line.split_once('|') else { continue };
        let name = package.split(' ').next().unwrap();
        if ["aws-config", "rustls", "serde_json", "tokio"].contains(&name) {
            let features = features.trim_end_matches(" (*)").split(',').map(str::to_owned);
            let features: BTreeSet<_> = features.filter(|name| name != "test-util").collect();
            let first = found.entry(name.to_owned()).or_insert_with(|| features.clone());
            assert_eq!(*first, features, "{name} is built twice");
        }
    }
    found
}

#[test]
fn what_is_tested_has_the_features_of_what_ships() {
    let tested = features(&["--workspace", "--edges", "normal,dev"]);
    assert_eq!(tested.len(), 4, "{tested:?}");
    for feature in ["credentials-login", "credentials-process", "sso"] {
        assert!(tested["aws-config"].contains(feature), "people sign in by {feature}");
    }
    assert!(tested["serde_json"].contains("preserve_order"));
    for package in ["agent-runtime", "invoker", "operator"] {
        let ships = features(&["--package", package, "--edges", "normal"]);
        assert_eq!(ships, tested, "{package}");
    }
}
