//! The range methods by the names that users type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How a range follows from a sketch. Prints as, and parses from, the name users type: `minmax`, `percentile:99.99`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Method {
    /// See [`super::minmax`].
    MinMax,
    /// See [`super::extremal`]; the weight of a new sample, 0 to 1.
    MovingAverage(f64),
    /// See [`super::extremal`].
    MeanExtrema,
    /// See [`super::extremal`].
    MedianExtrema,
    /// See [`super::percentile`]; percent of the magnitudes kept.
    Percentile(f64),
    /// See [`super::percentile`]; percent of the numbers kept.
    PercentileAsymmetric(f64),
    /// See [`super::percentile`].
    PercentileBest,
    /// See [`super::entropy`].
    Entropy,
    /// See [`super::mse`].
    Mse,
    /// See [`super::mse`].
    TfEnhanced,
    /// See [`super::auto`].
    Auto,
}

/// Every method: name and one line, in the order in which they are listed.
pub const METHODS: &[(&str, &str)] = &[
    ("minmax", "least and greatest number seen"),
    (
        "moving-average",
        "moving average of each sample's extrema; moving-average:0.01 sets the weight of a new sample",
    ),
    ("mean-extrema", "mean of each sample's extrema"),
    ("median-extrema", "median of each sample's extrema"),
    ("percentile", "cuts the largest magnitudes, both ends alike; percentile:99.999 keeps that percentage"),
    ("percentile-asymmetric", "cuts each end by half of what is not kept; percentile-asymmetric:99.999"),
    (
        "percentile-best",
        "of 99.9, 99.99 and 99.999 the percentile with the least expected error, tensor by tensor",
    ),
    (
        "entropy",
        "least Kullback-Leibler divergence between the numbers before and after, over all thresholds",
    ),
    ("mse", "least expected squared error, both ends free where the grid is asymmetric"),
    ("tf-enhanced", "like mse, with errors from clipping counted three times"),
    ("auto", "tensor by tensor the range of all these with the least expected error"),
];

/// What onnxruntime takes, too.
const DEFAULT_PERCENT: f64 = 99.999;
const DEFAULT_WEIGHT: f64 = 0.01;

impl Method {
    /// The name without its parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::MinMax => "minmax",
            Self::MovingAverage(_) => "moving-average",
            Self::MeanExtrema => "mean-extrema",
            Self::MedianExtrema => "median-extrema",
            Self::Percentile(_) => "percentile",
            Self::PercentileAsymmetric(_) => "percentile-asymmetric",
            Self::PercentileBest => "percentile-best",
            Self::Entropy => "entropy",
            Self::Mse => "mse",
            Self::TfEnhanced => "tf-enhanced",
            Self::Auto => "auto",
        }
    }

    fn parameter(self) -> Option<f64> {
        match self {
            Self::MovingAverage(p) | Self::Percentile(p) | Self::PercentileAsymmetric(p) => Some(p),
            _ => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.parameter().map_or(Ok(()), |p| write!(f, ":{p}"))
    }
}

impl From<Method> for String {
    fn from(m: Method) -> Self {
        m.to_string()
    }
}

impl TryFrom<String> for Method {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl FromStr for Method {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let (name, parameter) = s.split_once(':').map_or((s, None), |(n, p)| (n, Some(p)));
        let number = |default: f64, least: f64, most: f64, must: &'static str| match parameter {
            None => Ok(default),
            Some(p) => p
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|v| *v > least && *v <= most)
                .ok_or(Error::Parameter { what: "the method's parameter", must, found: p.to_string() }),
        };
        let percent = || number(DEFAULT_PERCENT, 0.0, 100.0, "a percentage above 0 and up to 100");
        let method = match name {
            "moving-average" => {
                return number(DEFAULT_WEIGHT, 0.0, 1.0, "a weight above 0 and up to 1")
                    .map(Self::MovingAverage);
            }
            "percentile" => return percent().map(Self::Percentile),
            "percentile-asymmetric" => return percent().map(Self::PercentileAsymmetric),
            "minmax" => Self::MinMax,
            "mean-extrema" => Self::MeanExtrema,
            "median-extrema" => Self::MedianExtrema,
            "percentile-best" => Self::PercentileBest,
            "entropy" => Self::Entropy,
            "mse" => Self::Mse,
            "tf-enhanced" => Self::TfEnhanced,
            "auto" => Self::Auto,
            _ => {
                return Err(Error::UnknownName {
                    what: "range method",
                    name: s.to_string(),
                    known: METHODS.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", "),
                });
            }
        };
        match parameter {
            None => Ok(method),
            Some(p) => Err(Error::Parameter {
                what: "the method's parameter",
                must: "absent: this method takes none",
                found: p.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_the_list_is_complete() {
        for (name, text) in METHODS {
            let m: Method = name.parse().unwrap();
            assert_eq!(m.name(), *name);
            assert_eq!(m.to_string().parse::<Method>().unwrap(), m);
            assert!(!text.is_empty() && !text.ends_with('.'));
        }
        assert_eq!("percentile:99.9".parse::<Method>().unwrap(), Method::Percentile(99.9));
        assert_eq!("percentile".parse::<Method>().unwrap().to_string(), "percentile:99.999");
        for bad in [
            "",
            "max",
            "percentile:0",
            "percentile:101",
            "percentile:x",
            "percentile:nan",
            "entropy:3",
            "moving-average:2",
        ] {
            assert!(bad.parse::<Method>().is_err(), "{bad}");
        }
    }
}
