//! Operators chosen by pattern.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use globset::Glob;
use ir::Model;
use passes::quantize::Precision;
use passes::quantize::choose::key_of;

/// The operators that the user keeps in float. A pattern that matches nothing is an error.
pub fn excluded(model: &Model, patterns: &[String]) -> Result<BTreeMap<String, Precision>> {
    let graph = model.main();
    let mut excluded = BTreeMap::new();
    for pattern in patterns {
        let glob = Glob::new(pattern)?.compile_matcher();
        let before = excluded.len();
        for op in graph.ops() {
            let key = key_of(graph, op);
            let node = graph.op(op);
            if [&node.name, &key, &node.kind.to_string()].iter().any(|name| glob.is_match(name)) {
                excluded.insert(key, Precision::Float);
            }
        }
        if excluded.len() == before {
            bail!("--exclude {pattern:?} matches no operator; names are listed by `onnxq inspect`");
        }
    }
    Ok(excluded)
}
