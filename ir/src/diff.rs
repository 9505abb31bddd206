//! The difference of two models as text: what `--print-changed` shows and what pass fixtures expect.

use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput};

use crate::Model;
use crate::text::{Style, print_with};

/// Lines around a change.
const CONTEXT: usize = 3;

/// What changed between two models, printed in a style; empty if nothing did.
pub fn diff_models(before: &Model, after: &Model, style: &Style) -> String {
    diff(&print_with(before, style), &print_with(after, style))
}

/// What changed between two texts: `-` and `+` before lines that left and came, three lines of context, `@@` before each
/// place. No line numbers, so that a change further up does not change the rest. Empty if the texts are equal.
pub fn diff(before: &str, after: &str) -> String {
    let input = InternedInput::new(before, after);
    // With its heuristics this algorithm stays near-linear where a pass changes every second line of a large model; the
    // histogram one does not.
    let mut diff = Diff::compute(Algorithm::Myers, &input);
    diff.postprocess_lines(&input);
    let left: Vec<&str> = input.before.iter().map(|&line| input.interner[line]).collect();
    let right: Vec<&str> = input.after.iter().map(|&line| input.interner[line]).collect();
    let mut out = String::new();
    // Where the last change ended in the left text.
    let mut last: Option<usize> = None;
    for hunk in diff.hunks() {
        let (old, new) = (range(hunk.before), range(hunk.after));
        match last {
            Some(end) if old.start - end <= 2 * CONTEXT => lines(&mut out, ' ', &left[end..old.start]),
            _ => {
                trail(&mut out, &left, last);
                out.push_str("@@\n");
                lines(&mut out, ' ', &left[old.start.saturating_sub(CONTEXT)..old.start]);
            }
        }
        lines(&mut out, '-', &left[old.clone()]);
        lines(&mut out, '+', &right[new]);
        last = Some(old.end);
    }
    trail(&mut out, &left, last);
    out
}

/// The context behind a change.
fn trail(out: &mut String, left: &[&str], end: Option<usize>) {
    if let Some(end) = end {
        lines(out, ' ', &left[end..left.len().min(end + CONTEXT)]);
    }
}

fn range(range: Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn lines(out: &mut String, mark: char, lines: &[&str]) {
    for line in lines {
        out.push(mark);
        out.push_str(line.trim_end_matches('\n'));
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stand_in_their_context() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\n";
        let after = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
        assert_eq!(diff(before, after), "@@\n a\n-b\n+B\n c\n d\n e\n@@\n i\n j\n k\n+l\n");
        assert_eq!(diff(before, before), "");
        assert_eq!(diff("a", "a\n"), "@@\n-a\n+a\n");
    }

    /// Neither scattered changes nor repeated lines nor texts without a common line take minutes.
    #[test]
    fn long_texts_that_differ_everywhere() {
        let text = |word: &str, every: usize| -> String {
            (0..100_000)
                .map(|k| format!("{} {}\n", if k % 2 == 0 { "same" } else { word }, k - k % every))
                .collect()
        };
        for (after, expected) in [(text("other", 1), 50_000), (text("line", 2), 50_000)] {
            let changed = diff(&text("line", 1), &after).matches("\n+").count();
            assert!(changed >= expected, "{changed}");
        }
        let nothing = text("line", 1).replace("same", "different");
        assert_eq!(diff(&text("word", 1), &nothing).matches("\n+").count(), 100_000);
    }
}
