//! Every file of `tests/fixtures` is a test; see `fixtures/README.md` for the form. `BLESS=1` writes what came out.

#[path = "support/fixture.rs"]
mod fixture;
#[path = "support/values.rs"]
mod values;

use std::path::{Path, PathBuf};

use fixture::Fixture;
use ir::{diff, diff_models};
use libtest_mimic::{Arguments, Failed, Trial};
use onnxq_passes as passes;
use passes::driver::run;
use passes::{Cx, Options, Report, Spec, Step};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let trials = files.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("").display().to_string();
        Trial::test(name, move || check(&path).map_err(Failed::from))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the fixtures") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "onnxtxt") {
            files.push(path);
        }
    }
}

fn check(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let fixture = Fixture::parse(&text)?;
    let mut before = ir::text::parse(&fixture.model).map_err(|error| error.to_string())?;
    verify(&before, "the fixture")?;
    round_trips(&before)?;
    apply(&mut before, &fixture.prepare)?;
    let mut after = before.clone();
    let report = apply(&mut after, &fixture.passes)?;
    verify(&after, "the result")?;
    round_trips(&after)?;
    idempotent(&after, &fixture)?;
    compute(&before, &after, &fixture)?;

    let found = shown(&before, &after, &report);
    if found == fixture.expected {
        return Ok(());
    }
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(path, fixture.with_expected(&found)).map_err(|error| error.to_string());
    }
    Err(format!("not as expected (BLESS=1 accepts it):\n{}", diff(&fixture.expected, &found)))
}

fn steps(passes: &[Spec]) -> Vec<Step> {
    passes.iter().cloned().map(Step::Once).collect()
}

fn apply(model: &mut ir::Model, passes: &[Spec]) -> Result<Report, String> {
    let options = Options { verify_each: true, explain: true, ..Options::default() };
    run(model, &steps(passes), &passes::table::make, options).map_err(|failure| failure.to_string())
}

fn verify(model: &ir::Model, what: &str) -> Result<(), String> {
    ir::verify(model).map_err(|found| format!("{what} is not valid: {found}"))
}

/// What is printed reads as the same model, and so does what is exported.
fn round_trips(model: &ir::Model) -> Result<(), String> {
    let printed = ir::text::print(model);
    let read = ir::text::parse(&printed).map_err(|error| format!("{error} in\n{printed}"))?;
    model.same(&read).map_err(|difference| format!("printed and parsed: {difference}"))?;
    let bytes = proto::to_bytes(model).map_err(|error| error.to_string())?;
    let read = proto::read_bytes(bytes.into(), None).map_err(|error| error.to_string())?;
    model.same(&read.model).map_err(|difference| format!("exported and imported: {difference}"))
}

/// A second run changes nothing.
fn idempotent(after: &ir::Model, fixture: &Fixture) -> Result<(), String> {
    if fixture.once.is_some() {
        return Ok(());
    }
    let mut again = after.clone();
    for spec in &fixture.passes {
        let pass = passes::table::make(spec).map_err(|error| error.to_string())?;
        let changes = pass.run(&mut again, &mut Cx::new()).map_err(|error| error.to_string())?;
        if !changes.is_empty() {
            let change = diff(&ir::text::print(after), &ir::text::print(&again));
            return Err(format!("a second run of {spec} changes something: {changes:?}\n{change}"));
        }
    }
    Ok(())
}

/// The reference evaluator agrees before and after.
fn compute(before: &ir::Model, after: &ir::Model, fixture: &Fixture) -> Result<(), String> {
    if fixture.not_evaluated.is_some() {
        return Ok(());
    }
    for (what, feed) in fixture::feeds(before, fixture)? {
        let old = values::evaluate(before, &feed).map_err(|error| format!("before, {what}: {error}"))?;
        let new = values::evaluate(after, &feed).map_err(|error| format!("after, {what}: {error}"))?;
        for (at, (old, new)) in old.iter().zip(&new).enumerate() {
            values::agree(old, new, fixture.tolerance)
                .map_err(|difference| format!("output {at} with {what}: {difference}"))?;
        }
    }
    Ok(())
}

/// What the fixture expects: the difference of the texts, then what was declined.
fn shown(before: &ir::Model, after: &ir::Model, report: &Report) -> String {
    let mut text = diff_models(before, after, &ir::text::Style::brief());
    for declined in &report.declined {
        text += &format!("{}/{}: {}: {}\n", declined.pass, declined.rule, declined.at, declined.why);
    }
    text
}
