//! `onnxq check`: looks for what a target would refuse, compute wrong or run slowly, in any model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use passes::check::{CheckOptions, Cpu, Finding, Rule, Severity, Version, check, rules};
use passes::target::{TARGETS, Target, target};
use serde_json::{Value, json};

use super::common::read_model;

/// The processor, as users name it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CpuArg {
    /// x86-64 without VNNI
    Avx2,
    /// x86-64 with VNNI or AMX, Arm with dot products
    Vnni,
}

/// Look for what a target would refuse, compute wrong or run slowly, in any model
#[derive(clap::Args)]
pub struct Args {
    /// The model
    model: PathBuf,
    /// What the model is going to run on: see `onnxq list targets`
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Version of the runtime, for example 1.31.1: decides rules that are otherwise only reported
    #[arg(long, value_name = "VERSION")]
    runtime_version: Option<Version>,
    /// The processor
    #[arg(long, value_enum)]
    cpu: Option<CpuArg>,
    /// List every place; without, the first few of each rule
    #[arg(long)]
    all: bool,
    /// Print the findings as JSON, all of them
    #[arg(long)]
    json: bool,
    /// Write the findings in the format of code scanners (SARIF 2.1.0)
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
}

/// Runs the command; false if the target would refuse the model.
pub fn run(args: &Args) -> Result<bool> {
    let known = || TARGETS.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
    let target = target(&args.target)
        .with_context(|| format!("there is no target {:?}; there are {}", args.target, known()))?;
    let model = read_model(&args.model)?;
    let cpu = args.cpu.map(|cpu| match cpu {
        CpuArg::Avx2 => Cpu::Avx2,
        CpuArg::Vnni => Cpu::Vnni,
    });
    let options = CheckOptions { runtime_version: args.runtime_version.clone(), cpu };
    let findings = check(&model, target, &options);
    if let Some(path) = &args.sarif {
        let text = serde_json::to_string_pretty(&sarif(&args.model, target, &findings))?;
        proto::write_file(path, text.as_bytes())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print(target, &findings, if args.all { usize::MAX } else { SHOWN });
    }
    Ok(!findings.iter().any(|finding| finding.severity == Severity::Error))
}

/// Places of a rule that are listed without `--all`.
const SHOWN: usize = 3;

/// One rule after the other, each with the first of its places.
fn print(target: &dyn Target, findings: &[Finding], shown: usize) {
    for rule in rules(target) {
        let places: Vec<&Finding> = findings.iter().filter(|finding| finding.rule == rule.id).collect();
        if places.is_empty() {
            continue;
        }
        let count = match places.len() {
            1 => String::new(),
            count => format!(" ({count} places)"),
        };
        println!("{}  {}{count}", rule.id, rule.about);
        for finding in places.iter().take(shown) {
            let value = finding.value.as_ref().map_or_else(String::new, |value| format!(" at {value:?}"));
            println!("  {:<11}  {}{value}: {}", finding.severity, finding.node, finding.found);
        }
        if places.len() > shown {
            println!("  and {} more: --all lists them", places.len() - shown);
        }
        println!("  mend: {} ({})", rule.mend, rule.source);
    }
    let counts: Vec<String> = Severity::ALL
        .iter()
        .map(|&severity| (severity, findings.iter().filter(|finding| finding.severity == severity).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(severity, count)| format!("{count} {severity}"))
        .collect();
    let rules = rules(target).len();
    let counts = if counts.is_empty() { "nothing found".to_string() } else { counts.join(", ") };
    println!("{}: {counts} ({rules} rules)", target.name());
}

/// How SARIF grades a severity.
fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Wrong | Severity::Performance | Severity::Accuracy => "warning",
        Severity::Information => "note",
    }
}

/// The path as RFC 3986 has it: absolute ones with their scheme, everything unusual as percent and code.
fn uri(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "/");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let coded: String = text
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    match path.is_absolute() {
        true => format!("file://{}{coded}", if coded.starts_with('/') { "" } else { "/" }),
        false => coded,
    }
}

/// A log of one run, SARIF 2.1.0.
fn sarif(model: &Path, target: &dyn Target, findings: &[Finding]) -> Value {
    let describe = |rule: &Rule| {
        json!({
            "id": rule.id,
            "shortDescription": { "text": rule.about },
            "help": { "text": format!("{} ({})", rule.mend, rule.source) },
            "defaultConfiguration": { "level": level(rule.severity) },
        })
    };
    let uri = uri(model);
    let result = |finding: &Finding| {
        let index = rules(target).iter().position(|rule| rule.id == finding.rule);
        let value = finding.value.as_ref().map_or_else(String::new, |value| format!(", value {value:?}"));
        let place = format!("graph {:?}, {}{value}", finding.graph, finding.node);
        json!({
            "ruleId": finding.rule,
            "ruleIndex": index,
            "level": level(finding.severity),
            "message": { "text": format!("{place}: {}; {}", finding.found, finding.mend) },
            "locations": [{
                "physicalLocation": { "artifactLocation": { "uri": uri } },
                "logicalLocations": [{ "fullyQualifiedName": place }],
            }],
        })
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": format!("onnxq check --target {}", target.name()),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules(target).iter().map(describe).collect::<Vec<_>>(),
            }},
            "results": findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris() {
        assert_eq!(uri(Path::new("a folder/m#1.onnx")), "a%20folder/m%231.onnx");
        assert_eq!(uri(Path::new("é.onnx")), "%C3%A9.onnx");
        #[cfg(unix)]
        assert_eq!(uri(Path::new("/m.onnx")), "file:///m.onnx");
    }
}
