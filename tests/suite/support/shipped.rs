//! The shipped alerting rules and dashboards as plain data.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of the project.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names in a folder with this suffix, sorted.
pub fn names(folder: &Path, suffix: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = files.map(|entry| {
        entry
            .expect("a readable folder")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort();
    names
}

/// A YAML file as JSON values, because their types belong to other programs.
pub fn yaml(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The entries of a list; none if there is no list.
pub fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// The shipped files of alerting and recording rules.
pub fn rule_files() -> Vec<PathBuf> {
    let folder = root().join("alerting");
    let mut found = names(&folder, ".rules.yml");
    found.push("recording.yml".to_owned());
    found.iter().map(|name| folder.join(name)).collect()
}

/// Every shipped rule, as (file, rule).
pub fn rules() -> Vec<(PathBuf, Value)> {
    let mut rules = Vec::new();
    for file in rule_files() {
        let groups = yaml(&file);
        for group in items(&groups, "groups") {
            rules.extend(items(group, "rules").map(|rule| (file.clone(), rule.clone())));
        }
    }
    rules
}

/// The alerting rules among them.
pub fn alerts() -> Vec<(PathBuf, Value)> {
    let mut rules = rules();
    rules.retain(|(_, rule)| rule["alert"].is_string());
    rules
}

/// The dashboards, as (name of the file, JSON).
pub fn dashboards() -> Vec<(String, Value)> {
    let folder = root().join("dashboards");
    let read = |name: String| {
        let text = std::fs::read_to_string(folder.join(&name)).expect("a dashboard ships");
        let board = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, board)
    };
    names(&folder, ".json").into_iter().map(read).collect()
}

/// The panels of a dashboard with queries, including those in folded rows.
pub fn panels(board: &Value) -> Vec<&Value> {
    let all = items(board, "panels").flat_map(|panel| std::iter::once(panel).chain(items(panel, "panels")));
    all.filter(|panel| panel["type"] != "row").collect()
}
