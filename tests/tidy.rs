//! What no compiler checks: the arrows between the layers, headers, unsafe code and weak orderings
//! where they are said to be, the size of files, places that exist on one machine only, the reasons of
//! errors, the licences and versions of dependencies.
//!
//! It reads what git tracks, `cargo metadata` and deny.toml, and starts nothing else. A failure names
//! the file and the line, and says what to do. Comments do not count as code, strings do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// Lines of one file, above which it is more than one concept.
const LINES_MAX: usize = 800;

/// Files that may be longer, each with its reason.
const LONG_FILES: [(&str, &str); 2] =
    [("Cargo.lock", "cargo writes it"), ("fuzz/Cargo.lock", "cargo writes it")];

/// Of these there is never a second version: their types are part of our own interfaces, or, for
/// zstd-sys, both would bring the same C symbols.
const ONE_VERSION: [&str; 7] = ["bytes", "http", "hyper", "prost", "tokio", "tonic", "zstd-sys"];

// --- The layers ----------------------------------------------------------------------------------

/// `wire` uses `service`, `service` uses `core`, never back; gRPC is `wire`'s, and its clients' and
/// server's.
#[test]
fn the_layers_point_one_way() {
    // Of a layer, the modules of this crate that it may not name.
    let arrows = |path: &str| -> &[&str] {
        if path.starts_with("src/core/") {
            &["service", "wire", "server", "cli", "config"]
        } else if path.starts_with("src/service/") {
            &["wire", "server", "cli", "config"]
        } else {
            &[]
        }
    };
    let speaks_grpc = |path: &str| {
        path.starts_with("src/wire/") || path.starts_with("src/cli/") || path == "src/server.rs"
    };
    let mut faults = Vec::new();
    for (path, text) in tracked(|path| in_folder(path, "src") && is_rust(path)) {
        for (number, code) in code_lines(&text) {
            for word in words(code) {
                if !speaks_grpc(&path) && (word.starts_with("tonic") || word.starts_with("prost")) {
                    faults.push(format!("{path}:{number}: `{word}`: only src/wire, src/cli and src/server.rs speak gRPC"));
                }
            }
        }
        for module in named_modules(&text) {
            if arrows(&path).contains(&module.as_str()) {
                faults.push(format!("{path}: uses `crate::{module}`, which lies above it"));
            }
        }
    }
    none(&faults);
}

// --- Source files --------------------------------------------------------------------------------

/// A header says what the module is, who calls it and from which thread.
#[test]
fn every_source_file_begins_with_a_header() {
    let sources = tracked(|path| is_rust(path) && !in_folder(path, "clients"));
    assert!(!sources.is_empty());
    none(
        &sources
            .iter()
            .filter(|(_, text)| !text.starts_with("//! "))
            .map(|(path, _)| format!("{path}:1: no `//!` header"))
            .collect::<Vec<_>>(),
    );
}

/// Whoever reviews unsafe code, or runs it under a sanitizer, finds all of it by one list.
#[test]
fn unsafe_code_is_only_where_architecture_md_lists_it() {
    let listed: BTreeSet<String> = read("ARCHITECTURE.md").map_or_else(BTreeSet::new, |text| {
        text.lines()
            .skip_while(|line| !(line.starts_with('#') && line.contains("Unsafe code")))
            .skip(1)
            .take_while(|line| !line.starts_with('#'))
            .filter_map(|line| line.trim_start().strip_prefix("- `")?.split_once('`'))
            .map(|(path, _)| path.to_owned())
            .collect()
    });
    let allowing: BTreeSet<String> = tracked(|path| in_folder(path, "src") && is_rust(path))
        .into_iter()
        .filter(|(_, text)| {
            code_lines(text).any(|(_, code)| {
                code.contains("allow(unsafe_code") || code.contains("expect(unsafe_code")
            })
        })
        .map(|(path, _)| path)
        .collect();
    let mut faults = Vec::new();
    for path in allowing.difference(&listed) {
        faults.push(format!(
            "{path}: has unsafe code, is not under \"Unsafe code\" in ARCHITECTURE.md"
        ));
    }
    for path in listed.difference(&allowing) {
        faults.push(format!("ARCHITECTURE.md: lists {path}, which allows no unsafe code"));
    }
    none(&faults);
}

/// Whoever weakens an ordering says which other access it pairs with.
#[test]
fn every_weak_ordering_in_the_core_has_a_comment() {
    let mut faults = Vec::new();
    for (path, text) in tracked(|path| in_folder(path, "src/core") && is_rust(path)) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, code) in code_lines(&text) {
            let weak = ["Relaxed", "Acquire", "Release", "AcqRel"]
                .into_iter()
                .find(|ordering| words(code).any(|word| word == *ordering));
            let Some(weak) = weak else { continue };
            // Written out wherever it is used, it can be found; imported by name, it could not.
            if code.trim_start().starts_with("use ") {
                faults.push(format!("{path}:{number}: import `Ordering`, not `{weak}`"));
            } else if !lines[number.saturating_sub(4)..number]
                .iter()
                .any(|line| line.contains("//"))
            {
                faults.push(format!(
                    "{path}:{number}: `{weak}` without a comment on its line or the three above"
                ));
            }
        }
    }
    none(&faults);
}

#[test]
fn no_file_is_longer_than_one_concept_needs() {
    let faults: Vec<String> = tracked(|path| !LONG_FILES.iter().any(|(long, _)| *long == path))
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {LINES_MAX}"))
        .collect();
    none(&faults);
}

/// What is written here works in any clone: no folder of somebody's machine, no mirror of somebody's
/// network, no host that only a package manager should know.
#[test]
fn no_file_names_a_place_on_one_machine() {
    // In pieces, or this file would name them.
    let folders = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];
    let hosts = [
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("registry.npmjs", ".org"),
        concat!("deb.debian", ".org"),
        concat!("proxy.golang", ".org"),
    ];
    let mut faults = Vec::new();
    for (path, text) in tracked(|_| true) {
        for (number, line) in (1..).zip(text.lines()) {
            for place in folders.into_iter().filter(|folder| begins_a_path(line, folder)) {
                faults.push(format!("{path}:{number}: `{place}` is a folder of one machine"));
            }
            for host in hosts.into_iter().filter(|host| line.contains(host)) {
                faults.push(format!("{path}:{number}: `{host}` is the package manager's business"));
            }
        }
    }
    none(&faults);
}

// --- The protocol --------------------------------------------------------------------------------

/// A reason that no code gives is a promise nobody keeps; one that is not in the `.proto` is one that
/// no client can know.
#[test]
fn the_reasons_of_errors_are_those_of_error_proto() {
    const PREFIX: &str = "ERROR_REASON_";
    let proto = read("proto/annals/v1/error.proto").expect("error.proto");
    let declared: BTreeSet<String> = code_lines(&proto)
        .flat_map(|(_, code)| words(code))
        .filter_map(|word| word.strip_prefix(PREFIX))
        .filter(|reason| *reason != "UNSPECIFIED")
        .map(str::to_owned)
        .collect();
    assert!(declared.contains("WRONG_EXPECTED_VERSION"), "error.proto was not understood");

    // As a string ("WRONG_EXPECTED_VERSION") or as the generated enum's value.
    let status = read("src/wire/status.rs").expect("src/wire/status.rs");
    let mut given = BTreeSet::new();
    for (_, code) in code_lines(&status) {
        given.extend(
            code.split('"')
                .skip(1)
                .step_by(2)
                .map(|text| text.strip_prefix(PREFIX).unwrap_or(text))
                .filter(|text| {
                    text.len() > 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                })
                .map(str::to_owned),
        );
        given.extend(
            code.split("Reason::")
                .skip(1)
                .filter_map(|rest| words(rest).next())
                .filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()))
                .map(upper_snake),
        );
    }
    given.remove("UNSPECIFIED");

    let mut faults = Vec::new();
    for reason in declared.difference(&given) {
        faults.push(format!("error.proto declares {reason}, src/wire/status.rs never gives it"));
    }
    for reason in given.difference(&declared) {
        faults.push(format!("src/wire/status.rs gives {reason}, error.proto does not declare it"));
    }
    none(&faults);
}

// --- Dependencies --------------------------------------------------------------------------------

/// The licences and double versions that deny.toml allows, without a tool to install.
#[test]
fn dependencies_have_a_licence_and_a_version_that_deny_toml_allows() {
    let deny: toml::Table =
        read("deny.toml").expect("deny.toml").parse().expect("deny.toml is TOML");
    let strings = |value: &toml::Value| -> BTreeSet<String> {
        let list = value.as_array().expect("a list");
        list.iter().map(|text| text.as_str().expect("a string").to_owned()).collect()
    };
    let licences = strings(&deny["licenses"]["allow"]);
    let mut skipped = BTreeSet::new();
    for entry in deny["bans"]["skip"].as_array().expect("bans.skip is a list") {
        let has_reason =
            entry.get("reason").and_then(toml::Value::as_str).is_some_and(|r| !r.is_empty());
        assert!(has_reason, "deny.toml: {entry}: an exception without a reason");
        skipped.insert(entry["crate"].as_str().expect("crate is a string").to_owned());
    }

    let mut faults = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut licences_used = BTreeSet::new();
    for package in packages() {
        let field = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let (name, version, licence) = (field("name"), field("version"), field("license"));
        let parsed = Licence::parse(&licence);
        licences_used.extend(parsed.names());
        if !parsed.is_allowed(&licences) {
            faults
                .push(format!("{name} {version}: licence `{licence}` is not allowed by deny.toml"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for licence in licences.difference(&licences_used) {
        faults.push(format!("deny.toml: no dependency has licence {licence}; take it out"));
    }
    for (name, versions) in &versions {
        if versions.len() > 1 && ONE_VERSION.contains(&name.as_str()) {
            faults.push(format!("{name}: {versions:?}, and there may be only one"));
        }
        let kept =
            versions.iter().filter(|version| !skipped.contains(&format!("{name}@{version}")));
        if kept.count() > 1 {
            faults
                .push(format!("{name}: {versions:?}; if it cannot be helped, say so in deny.toml"));
        }
    }
    for exception in &skipped {
        let (name, version) = exception.split_once('@').expect("name@version");
        let needed = versions.get(name).is_some_and(|all| all.len() > 1 && all.contains(version));
        if !needed {
            faults.push(format!(
                "deny.toml: {exception} has no second version any more; take it out"
            ));
        }
    }
    for name in ONE_VERSION {
        assert!(versions.contains_key(name), "{name}: not in the tree; take it out of ONE_VERSION");
    }
    none(&faults);
}

/// Every package that is built for this platform with any feature, as `cargo metadata` tells.
fn packages() -> Vec<serde_json::Value> {
    let rustc = output("rustc", &["-vV"]);
    let host =
        rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc has a host");
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let metadata = output(
        cargo,
        &[
            "metadata",
            "--locked",
            "--all-features",
            "--format-version=1",
            "--filter-platform",
            host,
        ],
    );
    let mut metadata: serde_json::Value =
        serde_json::from_str(&metadata).expect("cargo speaks JSON");
    match metadata["packages"].take() {
        serde_json::Value::Array(packages) if packages.len() > 1 => packages,
        other => panic!("no packages: {other}"),
    }
}

/// An SPDX licence expression: `MIT OR (Apache-2.0 WITH LLVM-exception AND Zlib)`, and the old way of
/// writing OR as `/`. <https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>
#[derive(Debug, PartialEq)]
enum Licence {
    One(String),
    All(Vec<Licence>),
    Any(Vec<Licence>),
}

impl Licence {
    fn parse(text: &str) -> Self {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let mut tokens = spaced.split_whitespace().peekable();
        let licence = Self::any(&mut tokens);
        assert!(tokens.next().is_none(), "`{text}`: not a licence expression");
        licence
    }

    fn any<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Self {
        let mut any = vec![Self::all(tokens)];
        while tokens.next_if_eq(&"OR").is_some() {
            any.push(Self::all(tokens));
        }
        Self::Any(any)
    }

    fn all<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Self {
        let mut all = vec![Self::one(tokens)];
        while tokens.next_if_eq(&"AND").is_some() {
            all.push(Self::one(tokens));
        }
        Self::All(all)
    }

    fn one<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Self {
        match tokens.next() {
            Some("(") => {
                let inner = Self::any(tokens);
                assert_eq!(tokens.next(), Some(")"), "an open parenthesis");
                inner
            }
            Some(name) => match tokens.next_if_eq(&"WITH") {
                Some(_) => {
                    Self::One(format!("{name} WITH {}", tokens.next().expect("an exception")))
                }
                None => Self::One(name.to_owned()),
            },
            // No licence at all: nobody allows the empty one.
            None => Self::One(String::new()),
        }
    }

    /// Whether a choice of the allowed ones satisfies it.
    fn is_allowed(&self, allowed: &BTreeSet<String>) -> bool {
        match self {
            Self::One(name) => allowed.contains(name),
            Self::All(parts) => parts.iter().all(|part| part.is_allowed(allowed)),
            Self::Any(parts) => parts.iter().any(|part| part.is_allowed(allowed)),
        }
    }

    /// Every licence that it names.
    fn names(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::names).collect(),
        }
    }
}

#[test]
fn a_licence_expression_is_allowed_as_spdx_says() {
    let allowed: BTreeSet<String> = ["MIT", "Zlib"].map(str::to_owned).into();
    let is_allowed = |text| Licence::parse(text).is_allowed(&allowed);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/Apache-2.0",
        "(GPL-3.0 OR MIT) AND Zlib",
        "MIT AND Zlib OR X",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Zlib) AND GPL-3.0", "MIT WITH LLVM-exception"]
    {
        assert!(!is_allowed(bad), "{bad}");
    }
}

// --- Reading -------------------------------------------------------------------------------------

/// The files that git tracks, or would if told, that are text and that `wanted` picks by their path.
fn tracked(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let listing = output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let files: Vec<(String, String)> = listing
        .split('\0')
        .filter(|path| !path.is_empty() && wanted(path))
        // A file that is deleted but not yet committed, or that is not UTF-8, is not text of ours.
        .filter_map(|path| Some((path.to_owned(), read(path)?)))
        .collect();
    assert!(listing.contains("Cargo.toml\0"), "git lists nothing");
    files
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn in_folder(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The lines with their numbers from 1, each up to its `//`.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(|line| line.split("//").next().unwrap_or_default()))
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The top-level modules that a file names: by `crate::a`, `crate::{a, b::c}` or `super::a`. A module
/// of a layer that is called as one of the layers would count too; do not call one so.
fn named_modules(text: &str) -> BTreeSet<String> {
    let code: String = code_lines(text)
        .map(|(_, code)| code)
        .collect::<String>()
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let mut modules = BTreeSet::new();
    for rest in code.split("crate::").skip(1).chain(code.split("super::").skip(1)) {
        let group = rest.strip_prefix('{');
        let mut depth = 0;
        let mut at_start = true;
        for (index, c) in group.unwrap_or(rest).char_indices() {
            if at_start && depth == 0 {
                modules.extend(words(&group.unwrap_or(rest)[index..]).next().map(str::to_owned));
            }
            at_start = c == ',';
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if group.is_none() || depth < 0 {
                break;
            }
        }
    }
    modules
}

/// Whether `folder` stands in the line as the beginning of an absolute path.
fn begins_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(index, _)| {
        !line[..index].ends_with(|c: char| c.is_alphanumeric() || "._-)}/~*".contains(c))
    })
}

/// `WrongExpectedVersion` as `WRONG_EXPECTED_VERSION`.
fn upper_snake(camel: &str) -> String {
    let mut snake = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

/// Fails with all of them at once.
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n  {}", faults.len(), faults.join("\n  "));
}
