//! What a group costs: measured times from a table, multiplications times bits, and the forms of the budgets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use passes::quantize::Precision;

/// The first line of the stored form.
const HEADER: &str = "what,name,precision,microseconds";

/// Times of one run, from `onnxq measure-costs` or written by hand. CSV with the columns `what,name,precision,microseconds`:
///
/// ```csv
/// what,name,precision,microseconds
/// group,conv1,float,120.5
/// group,conv1,int8,41.0
/// conversion,relu1_out,,6.2
/// rest,,,15.0
/// ```
///
/// `group`: a group of the plan at a precision, without conversions; `conversion`: rounding or unrounding this value, paid
/// where its producer and its reader compute in different precisions; `rest`: everything that is not up for choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostTable {
    /// Microseconds by group and precision.
    pub groups: BTreeMap<(String, Precision), f64>,
    /// Microseconds by value.
    pub conversions: BTreeMap<String, f64>,
    /// Microseconds of the rest.
    pub rest: f64,
}

impl CostTable {
    /// Reads a table.
    ///
    /// # Errors
    /// An unreadable file, or a line that is no line of the form above, by its number.
    pub fn read(path: &Path) -> Result<CostTable> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        CostTable::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<CostTable> {
        let mut lines = text.lines().enumerate();
        let head = lines.next().map(|(_, line)| line.trim());
        ensure!(head == Some(HEADER), "the first line must be {HEADER:?}");
        let mut table = CostTable::default();
        for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("line {}: {line:?}", number + 1);
            // Names of values may hold commas; the other columns do not.
            let (what, rest) = line.trim().split_once(',').with_context(place)?;
            let (rest, time) = rest.rsplit_once(',').with_context(place)?;
            let (name, precision) = rest.rsplit_once(',').with_context(place)?;
            let time: f64 = time.trim().parse().with_context(place)?;
            ensure!(time.is_finite() && time >= 0.0, "{}: a time is a number of at least 0", place());
            match what {
                "group" => {
                    let known = Precision::ALL.iter().find(|(_, known)| *known == precision);
                    let (precision, _) = known.with_context(|| format!("{}: no such precision", place()))?;
                    table.groups.insert((name.to_string(), *precision), time);
                }
                "conversion" => {
                    table.conversions.insert(name.to_string(), time);
                }
                "rest" => table.rest += time,
                other => bail!("{}: {other:?} is none of group, conversion, rest", place()),
            }
        }
        Ok(table)
    }

    /// The stored form.
    pub fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for ((name, precision), time) in &self.groups {
            let _ = writeln!(text, "group,{name},{precision},{time:.3}");
        }
        for (name, time) in &self.conversions {
            let _ = writeln!(text, "conversion,{name},,{time:.3}");
        }
        let _ = writeln!(text, "rest,,,{:.3}", self.rest);
        text
    }

    /// Writes the table.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(proto::write_file(path, self.text().as_bytes())?)
    }
}

/// Bits of the operands of a multiplication: activations, weights.
pub fn bits(precision: Precision) -> (u64, u64) {
    match precision {
        Precision::Float => (32, 32),
        Precision::A16w8 => (16, 8),
        // Four bits are unpacked to bytes before they are multiplied.
        Precision::W8 | Precision::W4 => (32, 8),
        Precision::Fp16 => (32, 16),
        _ => (8, 8),
    }
}

/// A limit on size or work: a number, or a multiple of the float model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Bytes, bit operations or microseconds.
    Number(f64),
    /// Times the float model's.
    Times(f64),
}

impl Limit {
    /// The number, given the float model's.
    pub fn of(self, whole: f64) -> f64 {
        match self {
            Limit::Number(number) => number,
            Limit::Times(times) => whole * times,
        }
    }
}

impl std::str::FromStr for Limit {
    type Err = String;

    /// `0.3x`, `12MB`, `900KiB`, `4.5e9`.
    fn from_str(text: &str) -> Result<Limit, String> {
        let split =
            text.find(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.trim().parse().map_err(|_| format!("{text:?} is no number with a unit"))?;
        if !(number.is_finite() && number > 0.0) {
            return Err(format!("{text:?} is not positive"));
        }
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "x" => return Ok(Limit::Times(number)),
            "" | "b" | "us" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            "ms" => 1e3,
            "t" => 1e12,
            other => {
                return Err(format!(
                    "{other:?} is no unit: x, KB, MB, GB, KiB, MiB, GiB, us, ms, k, M, G, T"
                ));
            }
        };
        Ok(Limit::Number(number * factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!("0.3x".parse(), Ok(Limit::Times(0.3)));
        assert_eq!("12MB".parse(), Ok(Limit::Number(12e6)));
        assert_eq!("1.5 KiB".parse(), Ok(Limit::Number(1536.0)));
        assert_eq!("4e9".parse(), Ok(Limit::Number(4e9)));
        for bad in ["", "x", "-1x", "3 apples", "nan", "inf", "0"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_read_what_they_write() {
        let mut table = CostTable { rest: 1.5, ..CostTable::default() };
        table.groups.insert(("a,b".into(), Precision::Int8), 2.25);
        table.conversions.insert("c".into(), 0.125);
        assert_eq!(CostTable::parse(&table.text()).unwrap(), table);
        for bad in [
            "",
            "what",
            "what,name,precision,microseconds\ngroup,a,int9,1",
            "what,name,precision,microseconds\nrest,,,-1",
        ] {
            assert!(CostTable::parse(bad).is_err(), "{bad}");
        }
    }
}
