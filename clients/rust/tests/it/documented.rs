//! Every public item of the sources has an example that is compiled, and nearly always run.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What begins a public item at the top level of a file. Methods are further to the right, and `pub(super)` is not public.
const ITEMS: &[&str] =
    &["pub struct ", "pub enum ", "pub trait ", "pub fn ", "pub async fn ", "pub type "];

#[test]
fn every_public_item_has_an_example() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut items, mut missing) = (Vec::new(), 0, String::new());
    collect(&src, &mut files);
    for file in files {
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if !ITEMS.iter().any(|item| line.starts_with(item)) {
                continue;
            }
            items += 1;
            if !has_example(&lines[..index]) {
                writeln!(missing, "src/{name}:{}: {line}", index + 1).unwrap();
            }
        }
    }
    assert!(items > 0, "no public item was found in {}", src.display());
    assert!(missing.is_empty(), "without an example that is compiled:\n{missing}");
}

#[test]
fn what_counts_as_an_example() {
    let has = |text: &str| has_example(&text.lines().collect::<Vec<_>>());
    assert!(has("/// One.\n///\n/// ```\n/// f();\n/// ```\n#[derive(Debug)]"));
    assert!(has("/// ```no_run\n/// f();\n/// ```\n#[derive(\n    Debug,\n)]"));
    assert!(has("/// ```text\n/// a\n/// ```\n/// ```should_panic\n/// f();\n/// ```"));
    assert!(!has("/// One."));
    assert!(!has("/// ```text\n/// a ──► b\n/// ```"));
    assert!(!has("/// ```ignore\n/// f();\n/// ```"));
    assert!(!has("/// ```\n/// f();\n/// ```\nfn another() {}\n\n/// One."));
}

/// The Rust files of a folder, and of those in it.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether the item after these lines has a code block of Rust in its documentation.
fn has_example(before: &[&str]) -> bool {
    let mut docs = Vec::new();
    let mut is_in_attribute = false;
    for line in before.iter().rev() {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim());
        } else if line.starts_with("#[") {
            is_in_attribute = false;
        } else if *line == ")]" || *line == "]" {
            is_in_attribute = true;
        } else if !is_in_attribute {
            break;
        }
    }
    let fences = docs.iter().rev().filter_map(|doc| doc.strip_prefix("```"));
    // Every second one ends a block.
    fences.step_by(2).any(|language| {
        let compiled = ["", "rust", "no_run", "should_panic", "compile_fail"];
        language.split(',').all(|word| compiled.contains(&word.trim()))
    })
}
