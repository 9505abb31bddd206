//! How far one result is from another: streaming, mergeable, in f64.
//!
//! Within one call sums run in order; over calls they are exact ([`crate::range::exact_sum`]), so the result does not depend on the
//! order of samples or on threads. A number that is not finite on one side only is *broken*: it is counted, and a
//! comparison with broken numbers has an SQNR of -200 dB, so that no average can hide it.

mod distance;
mod divergence;
mod top_k;

pub use distance::Distance;
pub use divergence::{Divergence, Rows};
pub use top_k::{TopK, top};

use crate::error::{Error, check_len};

fn whole_rows(x: &[f32], row: usize) -> Result<(), Error> {
    if row == 0 {
        return Err(Error::Shape("rows of length 0".to_string()));
    }
    check_len("numbers in whole rows", x.len().div_ceil(row).saturating_mul(row), x.len())
}
