//! The driver seen from outside: fuel, facts, failures, timing, what is reported.

use std::time::Duration;

use ir::Model;
use onnxq_passes as passes;
use passes::driver::run;
use passes::{Changes, Cx, Fact, Options, Pass, PassError, PassRun, Spec, Step, op_count};

const CHAIN: &str = r#"
<ir_version: 10, opset_import: ["" : 21]>
main (float[2] x) => (float[2] y)
<float[2] w = {1, 2}>
{
   [a] a = Identity (x)
   [b] b = Identity (a)
   [c] c = Neg (w)
   [d] d = Add (b, c)
   [e] e = Identity (d)
   [f] y = Exp (e)
}
"#;

fn model() -> Model {
    ir::text::parse(CHAIN).expect("a valid text")
}

fn steps(text: &str) -> Vec<Step> {
    Spec::list(text).expect("a valid list").into_iter().map(Step::Once).collect()
}

#[test]
fn fuel_gives_every_prefix_of_the_rewrites() {
    let all = {
        let mut model = model();
        passes::simplify(&mut model, Options::default()).expect("it simplifies")
    };
    assert!(all.rewrites.len() >= 4, "{:?}", all.rewrites);
    let mut counts = Vec::new();
    for fuel in 0..=all.rewrites.len() as u64 {
        let mut model = model();
        let options = Options { fuel: Some(fuel), verify_each: true, ..Options::default() };
        let report = passes::simplify(&mut model, options).expect("it simplifies");
        assert_eq!(report.rewrites, all.rewrites[..fuel as usize], "fuel {fuel}");
        assert_eq!(report.ops_after, op_count(&model));
        counts.push(report.ops_after);
    }
    assert_eq!(counts.first(), Some(&6));
    assert_eq!(counts.last(), Some(&2));
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
}

#[test]
fn the_same_model_gives_the_same_text_each_time() {
    let simplified = || {
        let mut model = model();
        passes::simplify(&mut model, Options::default()).expect("it simplifies");
        ir::text::print(&model)
    };
    assert_eq!(simplified(), simplified());
}

#[test]
fn rewrites_and_declined_ones_name_their_place() {
    let mut model = model();
    let options = Options { explain: true, ..Options::default() };
    let report = passes::run(&mut model, &steps("eliminate_identity"), options).expect("it runs");
    let places: Vec<String> = report.rewrites.iter().map(|rewrite| rewrite.at.to_string()).collect();
    assert_eq!(places, ["a", "b", "e"].map(|name| format!("in graph \"main\", at \"{name}\" (Identity)")),);
    let mut model = ir::text::parse(
        "<ir_version: 10, opset_import: [\"\" : 21]> main (float[2] x) => (float[2] y) { [i] y = Identity (x) }",
    )
    .expect("a valid text");
    let options = Options { explain: true, ..Options::default() };
    let report = passes::run(&mut model, &steps("eliminate_identity"), options).expect("it runs");
    assert_eq!(report.declined.len(), 1);
    assert_eq!(report.declined[0].why, "the graph's output \"y\" cannot be \"x\" directly");
}

#[test]
fn changes_are_shown_and_passes_are_timed_by_the_clock_that_is_given() {
    let ticks = std::cell::Cell::new(0);
    let clock = || {
        ticks.set(ticks.get() + 1);
        Duration::from_secs(ticks.get())
    };
    let mut seen: Vec<(String, Option<f64>, String)> = Vec::new();
    let mut watch = |run: &PassRun| {
        seen.push((run.pass.clone(), run.seconds, run.diff.clone().unwrap_or_default()));
    };
    let options =
        Options { print_changed: true, clock: Some(&clock), watch: Some(&mut watch), ..Options::default() };
    let report = passes::run(&mut model(), &steps("fold_constants(max_growth=0),eliminate_unused"), options);
    assert!(report.is_ok());
    assert_eq!(seen[0].0, "fold_constants(max_growth=0)");
    assert_eq!(seen[0].1, Some(1.0));
    assert!(seen[0].2.contains("-   [c] c = Neg (w)"), "{}", seen[0].2);
    assert_eq!(seen[1].2, "");
}

/// A pass that leaves a broken model behind.
#[derive(Debug)]
struct Breaks;

impl Pass for Breaks {
    fn name(&self) -> &'static str {
        "breaks"
    }

    fn run(&self, model: &mut Model, _: &mut Cx) -> Result<Changes, PassError> {
        let value = model.main().find("d").expect("it is there");
        let op = model.main().producer(value).expect("it is computed").0;
        model.main_mut().set_input(op, 0, Some(value));
        Ok(Changes::default())
    }
}

const NEVER: &Fact = &Fact { name: "never", check: |_| Err("because".to_string()) };

/// A pass that asks for what never holds, or promises it.
#[derive(Debug)]
struct Wants {
    before: bool,
}

impl Pass for Wants {
    fn name(&self) -> &'static str {
        "wants"
    }

    fn needs(&self) -> &'static [&'static Fact] {
        if self.before { &[NEVER] } else { &[] }
    }

    fn gives(&self) -> &'static [&'static Fact] {
        &[NEVER]
    }

    fn run(&self, _: &mut Model, _: &mut Cx) -> Result<Changes, PassError> {
        Ok(Changes::default())
    }
}

fn find(spec: &Spec) -> Result<Box<dyn Pass>, PassError> {
    match spec.name.as_str() {
        "breaks" => Ok(Box::new(Breaks)),
        "wants" => Ok(Box::new(Wants { before: true })),
        "promises" => Ok(Box::new(Wants { before: false })),
        _ => passes::table::make(spec),
    }
}

#[test]
fn a_broken_model_is_found_with_what_was_before_and_how_to_see_it_again() {
    let mut model = model();
    let options = Options { verify_each: true, fuel: Some(7), ..Options::default() };
    let failure = run(&mut model, &steps("eliminate_identity,breaks,normalize"), &find, options).unwrap_err();
    assert!(matches!(&failure.error, PassError::Invalid { when, .. } if when == "after breaks"), "{failure}");
    let before = failure.before.as_deref().expect("the model before");
    assert!(before.contains("[d] d = Add (x, c)"), "{before}");
    ir::text::parse(before).expect("it can be read again");
    let again = "onnxq opt m.onnx -o out.onnx --verify-each --fuel 7 --passes 'eliminate_identity,breaks'";
    assert_eq!(failure.reproducer("m.onnx").as_deref(), Some(again));
}

#[test]
fn facts_are_checked_before_and_after() {
    let failure = run(&mut model(), &steps("wants"), &find, Options::default()).unwrap_err();
    assert_eq!(failure.to_string(), "wants needs never, which does not hold: because");
    assert!(run(&mut model(), &steps("promises"), &find, Options::default()).is_ok());
    let options = Options { verify_each: true, ..Options::default() };
    let failure = run(&mut model(), &steps("promises"), &find, options).unwrap_err();
    assert_eq!(failure.to_string(), "wants promises never, which does not hold afterwards: because");
}

#[test]
fn a_wrong_name_is_found_before_anything_runs() {
    let mut model = model();
    let failure =
        passes::run(&mut model, &steps("eliminate_identity,merge_cast"), Options::default()).unwrap_err();
    assert_eq!(failure.to_string(), "there is no pass \"merge_cast\"; did you mean \"merge_casts\"?");
    assert_eq!(op_count(&model), 6);
}

#[test]
fn an_evaluator_of_the_program_folds_what_the_rules_cannot() {
    struct Twice;
    impl passes::Evaluator for Twice {
        fn eval(
            &self,
            _: &[(String, i64)],
            op: &ir::Op,
            inputs: &[Option<&ir::Tensor>],
            outputs: usize,
        ) -> Result<Vec<ir::Tensor>, String> {
            assert_eq!((&*op.kind.name, outputs), ("Unheard", 1));
            let values = inputs[0].ok_or("no input")?.to_vec::<f32>().map_err(|error| error.to_string())?;
            let twice: Vec<f32> = values.iter().map(|v| v * 2.0).collect();
            Ok(vec![ir::Tensor::from_slice(&[twice.len()], &twice).map_err(|error| error.to_string())?])
        }
    }
    let text = r#"
<ir_version: 10, opset_import: ["" : 21]>
main (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Unheard (w) y = Add (x, t) }
"#;
    let mut model = ir::text::parse(text).expect("a valid text");
    let options = Options { evaluator: Some(&Twice), ..Options::default() };
    passes::run(&mut model, &steps("fold_constants"), options).expect("it runs");
    let folded = model.main().find("t").and_then(|value| model.main().constant(value)).expect("a constant");
    assert_eq!(folded.to_vec::<f32>().expect("floats"), [2.0, 4.0]);
}
