//! How strong the inputs of each weight are: from a file where there is one, from the graph otherwise.

use anyhow::Result;
use ir::Model;
use passes::quantize::low_bit::{Prior, Site};

use super::imatrix::Imatrix;

/// Mean squares of the inputs of weights.
pub struct Importance {
    prior: Prior,
    given: Option<Imatrix>,
}

impl Importance {
    /// What is known about a model.
    pub fn new(model: &Model, sites: &[Site], given: Option<Imatrix>) -> Importance {
        Importance { prior: Prior::new(model, sites), given }
    }

    /// Names in the file that no weight has.
    pub fn unused<'a>(&'a self, sites: &'a [Site]) -> impl Iterator<Item = &'a str> {
        let names = self.given.iter().flat_map(Imatrix::names);
        names.filter(|name| !sites.iter().any(|site| site.name == *name))
    }

    /// One number ≥ 0 for each of the K columns of a weight, if anything is known.
    ///
    /// # Errors
    /// The file has another number of columns for this weight.
    pub fn of(&self, model: &Model, site: &Site) -> Result<Option<Vec<f32>>> {
        if let Some(given) = &self.given
            && let Some(found) = given.of(&site.name, site.cols)?
        {
            return Ok(Some(found.to_vec()));
        }
        Ok(self.prior.importance(model, site))
    }
}
