//! What the kernel's code analysis gets to see.
//!
//! evcxr carries rust-analyzer inside to find the types of a cell's variables, and loads every source file of every
//! crate that `cargo metadata` names: for this library 450 packages with 350 MB of source, most of it never compiled
//! here. A cell can only name denoscope's own types and those of its direct dependencies, so that is what the answer
//! is cut down to.

use std::collections::HashSet;

use serde_json::Value;

/// Steps from the cell's crate: 1 is the dynamic library, 2 denoscope, 3 its direct dependencies.
const DEPTH: usize = 3;
/// Crates from elsewhere that the standard library's types and modules are made with.
const STD_CRATES: [&str; 2] = ["hashbrown", "cfg-if"];

/// `metadata`, the JSON that `cargo metadata` printed, without the packages further than `DEPTH` ordinary
/// dependencies away from the root. Anything not understood is returned as it came.
#[must_use]
pub fn prune(metadata: &str) -> String {
    pruned(metadata).unwrap_or_else(|| metadata.to_string())
}

/// `metadata` of the standard library's workspace, without the crates from elsewhere that its public types do not show.
#[must_use]
pub fn prune_std(metadata: &str) -> String {
    pruned_std(metadata).unwrap_or_else(|| metadata.to_string())
}

fn pruned(metadata: &str) -> Option<String> {
    let json: Value = serde_json::from_str(metadata).ok()?;
    let root = json["resolve"]["root"].as_str()?.to_string();
    let kept = near(&json, root)?;
    keep(json, &kept)
}

fn pruned_std(metadata: &str) -> Option<String> {
    let json: Value = serde_json::from_str(metadata).ok()?;
    let shown = |p: &&Value| p["source"].is_null() || STD_CRATES.iter().any(|name| p["name"] == *name);
    let kept = json["packages"].as_array()?.iter().filter(shown).filter_map(|p| p["id"].as_str());
    let kept = kept.map(str::to_string).collect();
    keep(json, &kept)
}

/// Leaves only the packages in `kept` and what connects them.
fn keep(mut json: Value, kept: &HashSet<String>) -> Option<String> {
    let is_kept = |id: &Value| id.as_str().is_some_and(|id| kept.contains(id));
    json["packages"].as_array_mut()?.retain(|package| is_kept(&package["id"]));
    let nodes = json["resolve"]["nodes"].as_array_mut()?;
    nodes.retain(|node| is_kept(&node["id"]));
    for node in nodes {
        node["deps"].as_array_mut()?.retain(|dep| is_kept(&dep["pkg"]));
        node["dependencies"].as_array_mut()?.retain(is_kept);
    }
    Some(json.to_string())
}

/// The packages within [`DEPTH`] ordinary dependencies of `root`.
fn near(json: &Value, root: String) -> Option<HashSet<String>> {
    let nodes = json["resolve"]["nodes"].as_array()?;
    let mut kept = HashSet::from([root.clone()]);
    let mut edge = vec![root];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for id in &edge {
            let node = nodes.iter().find(|n| n["id"] == id.as_str())?;
            for dep in node["deps"].as_array()? {
                // `kind` is null for an ordinary dependency, else "build" or "dev".
                let ordinary = dep["dep_kinds"].as_array()?.iter().any(|k| k["kind"].is_null());
                let id = dep["pkg"].as_str()?;
                if ordinary && kept.insert(id.to_string()) {
                    next.push(id.to_string());
                }
            }
        }
        edge = next;
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain a → b → c → d → e with a build dependency x of b.
    fn chain() -> Value {
        let node = |id: &str, deps: &[(&str, Value)]| {
            let names: Vec<&str> = deps.iter().map(|d| d.0).collect();
            let deps: Vec<Value> = deps
                .iter()
                .map(|(d, k)| serde_json::json!({"name": d, "pkg": d, "dep_kinds": [{"kind": k}]}))
                .collect();
            serde_json::json!({"id": id, "deps": deps, "dependencies": names})
        };
        let normal = Value::Null;
        let nodes = [
            node("a", &[("b", normal.clone())]),
            node("b", &[("c", normal.clone()), ("x", "build".into())]),
            node("c", &[("d", normal.clone())]),
            node("d", &[("e", normal)]),
            node("e", &[]),
            node("x", &[]),
        ];
        let packages: Vec<Value> = nodes.iter().map(|n| serde_json::json!({"id": n["id"]})).collect();
        serde_json::json!({"packages": packages, "resolve": {"root": "a", "nodes": nodes}})
    }

    #[test]
    fn only_what_a_cell_can_name_is_left() {
        let json: Value = serde_json::from_str(&prune(&chain().to_string())).unwrap();
        let ids: Vec<&str> = json["packages"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["a", "b", "c", "d"]);
        let last = &json["resolve"]["nodes"][3];
        assert_eq!((last["id"].as_str(), last["deps"].as_array().unwrap().len()), (Some("d"), 0));
    }

    #[test]
    fn what_is_not_understood_is_passed_on() {
        assert_eq!(prune("no json"), "no json");
        assert_eq!(prune(r#"{"packages":[],"resolve":null}"#), r#"{"packages":[],"resolve":null}"#);
    }
}
