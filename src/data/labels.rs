//! Right answers: one class a line in the order of the data, or `name,class` a line, the name being the sample's file; or an
//! array of classes, `.npy` or in an `.npz` (`labels`, or the only one).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use ir::Tensor;

use super::Source;

/// The classes of samples.
#[derive(Clone, Debug)]
pub struct Labels {
    path: PathBuf,
    known: Known,
}

#[derive(Clone, Debug, PartialEq)]
enum Known {
    InOrder(Vec<usize>),
    ByName(BTreeMap<String, usize>),
}

impl Labels {
    /// Reads a file of labels.
    ///
    /// # Errors
    /// A line that is neither a class nor `name,class`, a name given twice, or no label at all.
    pub fn read(path: &Path) -> Result<Labels> {
        let known = match super::extension(path).as_str() {
            "npy" => array(&super::npy::read(path)?.tensor()?),
            "npz" => {
                let arrays = super::npz_arrays(path)?;
                let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
                let named = arrays.iter().find(|(name, _)| NAMES.contains(&name.as_str()));
                let (_, found) =
                    named.or(arrays.first().filter(|_| arrays.len() == 1)).with_context(|| {
                        format!(
                            "{}: no array is called {}: found {}",
                            path.display(),
                            NAMES[0],
                            names.join(", ")
                        )
                    })?;
                array(found)
            }
            _ => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                parse(&text)
            }
        };
        Ok(Labels { path: path.to_path_buf(), known: known.with_context(|| path.display().to_string())? })
    }

    /// The classes of what sample `at` is made of.
    ///
    /// # Errors
    /// A sample without a label.
    pub fn of(&self, source: &dyn Source, at: usize) -> Result<Vec<usize>> {
        let class = |(place, name): (usize, String)| {
            let found = match &self.known {
                Known::InOrder(classes) => classes.get(place),
                Known::ByName(classes) => classes.get(&name),
            };
            found.copied().with_context(|| format!("{} has no label for sample {name}", self.path.display()))
        };
        source.members(at).into_iter().map(class).collect()
    }
}

/// What arrays of classes are called in archives.
const NAMES: &[&str] = &["labels", "label", "targets", "target", "y", "classes"];

/// One integer a sample, in the order of the data.
fn array(tensor: &Tensor) -> Result<Known> {
    let is_list = tensor.dims().iter().filter(|&&size| size != 1).count() <= 1;
    let classes = ops::array::to_i64s(tensor).filter(|_| is_list);
    let shown =
        || format!("expected one class (an integer) a sample, found {} {:?}", tensor.dtype(), tensor.dims());
    let classes = classes.with_context(shown)?;
    let classes = classes.into_iter().map(|class| {
        usize::try_from(class).with_context(|| format!("{class} is no class; they count from 0"))
    });
    Ok(Known::InOrder(classes.collect::<Result<_>>()?))
}

fn parse(text: &str) -> Result<Known> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines: Vec<(usize, &str)> =
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    // A first line without a number is the header of a table.
    let class = |text: &str| text.trim().trim_matches('"').parse::<usize>().ok();
    let last =
        |line: &str| line.rsplit_once([',', '\t', ';']).map_or_else(|| class(line), |(_, last)| class(last));
    let header = lines.len() > 1 && lines.first().is_some_and(|(_, line)| last(line).is_none());
    let (mut in_order, mut by_name) = (Vec::new(), BTreeMap::new());
    for &(number, line) in &lines[usize::from(header)..] {
        let found = last(line).with_context(|| {
            format!("line {number}: expected a class (0, 1, 2, ...) or name,class, found {line:?}")
        })?;
        match line.rsplit_once([',', '\t', ';']) {
            None => in_order.push(found),
            Some((name, _)) => {
                let name = name.trim().trim_matches('"').to_string();
                if by_name.insert(name.clone(), found).is_some() {
                    bail!("line {number}: {name:?} was labelled before");
                }
            }
        }
    }
    match (in_order.is_empty(), by_name.is_empty()) {
        (true, true) => bail!("it holds no labels"),
        (false, true) => Ok(Known::InOrder(in_order)),
        (true, false) => Ok(Known::ByName(by_name)),
        (false, false) => bail!("some lines name their sample and some do not"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_come_in_order_or_by_name() {
        assert_eq!(parse("3\n\n# a comment\n1\n").unwrap(), Known::InOrder(vec![3, 1]));
        let named = Known::ByName([("a.jpg".to_string(), 7), ("b, c.jpg".to_string(), 2)].into());
        assert_eq!(parse("file,label\na.jpg,7\n\"b, c.jpg\",2\n").unwrap(), named);
        assert_eq!(parse("a.jpg\t7\nb, c.jpg\t2").unwrap(), named);
    }

    #[test]
    fn an_array_holds_one_class_a_sample() {
        let list = Tensor::from_slice(&[2, 1], &[4i64, 0]).unwrap();
        assert_eq!(array(&list).unwrap(), Known::InOrder(vec![4, 0]));
        for wrong in [
            Tensor::from_slice(&[2], &[1.0f32, 2.0]).unwrap(),
            Tensor::from_slice(&[2, 2], &[1i64, 2, 3, 4]).unwrap(),
            Tensor::from_slice(&[1], &[-1i64]).unwrap(),
        ] {
            assert!(array(&wrong).is_err());
        }
    }

    #[test]
    fn a_line_that_is_no_label_is_named() {
        for (text, what) in [
            ("1\ntwo\n", "line 2"),
            ("a,1\na,2\n", "line 2"),
            ("a,1\n2\n", "some lines"),
            ("", "no labels"),
            ("-1\n-2\n", "line 2"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(what), "{text:?}");
        }
    }
}
